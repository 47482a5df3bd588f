//! Small charts, as SVG.

use std::fmt::Write;

use maud::{Markup, html};

/// Units of the drawing, which is stretched to its place.
const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 100.0;

/// One line of a chart: a value for each span of time, the oldest first.
pub(super) struct Line<'a> {
    /// What it is of.
    pub(super) name: &'static str,
    pub(super) points: &'a [Option<f64>],
}

/// Where the scale of a chart ends.
#[derive(Clone, Copy)]
pub(super) enum Scale {
    /// At one.
    Share,
    /// At a round number above all values.
    Decimal,
    /// At a round number of KiB, MiB, …
    Bytes,
}

/// A length of time.
#[derive(Clone, Copy)]
pub(super) struct Width {
    pub(super) spans: usize,
    pub(super) minutes: u64,
}

/// A chart with what it is about.
pub(super) struct Chart<'a> {
    pub(super) title: &'static str,
    /// The figures of the last minute.
    pub(super) now: Vec<(&'static str, String)>,
    /// One or two.
    pub(super) lines: Vec<Line<'a>>,
    /// The text of a value.
    pub(super) text: fn(f64) -> String,
    pub(super) scale: Scale,
    /// What the width is of; its beginning is blank if there are fewer points.
    pub(super) width: Width,
}

impl Chart<'_> {
    pub(super) fn markup(&self) -> Markup {
        let values = || self.lines.iter().flat_map(|line| line.points).flatten();
        let highest = values().copied().fold(0.0, f64::max);
        let most = self.scale.end(highest);
        let is_one = self.lines.len() == 1;
        html! {
            article class="chart" {
                h3 { (self.title) }
                p class="now" {
                    @for (at, (name, value)) in self.now.iter().enumerate() {
                        span {
                            @if !is_one { i class={ "key " (color(at)) } {} }
                            (value)
                            @if !name.is_empty() { " " small { (name) } }
                        }
                    }
                }
                div class="plot" {
                    span class="top" aria-hidden="true" { ((self.text)(most)) }
                    svg role="img" aria-label=(self.label(highest)) preserveAspectRatio="none"
                        viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } {
                        @for y in [0.5, HEIGHT / 2.0, HEIGHT - 0.5] {
                            line class="grid" x1="0" x2=(WIDTH) y1=(y) y2=(y) {}
                        }
                        @for (at, line) in self.lines.iter().enumerate() {
                            @let (stroke, area) = self.paths(line, most);
                            @if is_one { path class={ "area " (color(at)) } d=(area) {} }
                            path class={ "stroke " (color(at)) } d=(stroke) {}
                        }
                    }
                }
                div class="axis" aria-hidden="true" {
                    span { (self.width.minutes) " min ago" }
                    span { "now" }
                }
            }
        }
    }

    /// What it shows, for who doesn't see it.
    fn label(&self, highest: f64) -> String {
        let mut label = format!("{}, last {} minutes.", self.title, self.width.minutes);
        for line in &self.lines {
            let values = || line.points.iter().flatten().copied();
            let name = if line.name.is_empty() {
                "It"
            } else {
                line.name
            };
            let lowest = values().fold(f64::INFINITY, f64::min);
            let highest = values().fold(0.0, f64::max);
            let _ = if lowest.is_finite() {
                let (lowest, highest) = ((self.text)(lowest), (self.text)(highest));
                write!(label, " {name}: lowest {lowest}, highest {highest}.")
            } else {
                write!(label, " {name}: nothing yet.")
            };
        }
        let _ = write!(label, " Peak {}.", (self.text)(highest));
        label
    }

    /// The line, and the area below it; with gaps where there is no value.
    fn paths(&self, line: &Line<'_>, most: f64) -> (String, String) {
        let step = WIDTH / (self.width.spans.max(2) - 1) as f64;
        let first = self.width.spans.saturating_sub(line.points.len());
        let (mut stroke, mut area) = (String::new(), String::new());
        let mut last = None;
        for (at, value) in line.points.iter().enumerate() {
            let x = (first + at) as f64 * step;
            let Some(value) = value else {
                close(&mut area, last.take());
                continue;
            };
            // The line's own width stays within.
            let y = 1.0 + (1.0 - (value / most).clamp(0.0, 1.0)) * (HEIGHT - 2.0);
            // Writing to a String doesn't fail.
            let _ = match last {
                Some(_) => {
                    write!(stroke, "L{x:.1} {y:.1}").and_then(|()| write!(area, "L{x:.1} {y:.1}"))
                }
                // A lone point has a length of its own.
                None => write!(stroke, "M{x:.1} {y:.1}h.1")
                    .and_then(|()| write!(area, "M{x:.1} {HEIGHT}V{y:.1}")),
            };
            last = Some(x);
        }
        close(&mut area, last);
        (stroke, area)
    }
}

fn close(area: &mut String, last: Option<f64>) {
    if let Some(x) = last {
        let _ = write!(area, "L{x:.1} {HEIGHT}Z");
    }
}

fn color(at: usize) -> &'static str {
    ["one", "two"][at % 2]
}

impl Scale {
    fn end(self, highest: f64) -> f64 {
        match self {
            Self::Share => 1.0,
            Self::Decimal => ceiling(highest),
            Self::Bytes => {
                let unit = 1024f64.powf((highest.max(1.0).ln() / 1024f64.ln()).floor());
                ceiling(highest / unit).min(1024.0) * unit
            }
        }
    }
}

/// A round number that is not less: 1, 2, 5, 10, …
fn ceiling(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    let step = steps.into_iter().find(|step| value <= step * power);
    step.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart<'a>(points: &'a [Option<f64>], scale: Scale) -> Chart<'a> {
        Chart {
            title: "Things",
            now: vec![("per <s>", "3".to_owned())],
            lines: vec![Line { name: "", points }],
            text: |value| format!("{value}/s"),
            scale,
            width: Width {
                spans: 5,
                minutes: 15,
            },
        }
    }

    #[test]
    fn scales_end_at_round_numbers() {
        let of = [0.0, 0.03, 1.0, 1.1, 43.0, 51.0, 999.0].map(ceiling);
        assert_eq!(of, [1.0, 0.05, 1.0, 2.0, 50.0, 100.0, 1000.0]);
        assert_eq!(ceiling(f64::NAN), 1.0);
        let of = [0.0, 3.0, 1e3, 1025.0, 4_700_000.0].map(|highest| Scale::Bytes.end(highest));
        assert_eq!(of, [1.0, 5.0, 1000.0, 2048.0, 5_242_880.0]);
        assert_eq!(Scale::Bytes.end(1_047_000.0), 1_048_576.0);
    }

    #[test]
    fn the_latest_is_at_the_right_and_gaps_stay_gaps() {
        let points = [Some(10.0), None, Some(0.0)];
        let chart = chart(&points, Scale::Decimal);
        let (stroke, area) = chart.paths(&chart.lines[0], 10.0);
        assert_eq!(stroke, "M180.0 1.0h.1M360.0 99.0h.1");
        assert_eq!(area, "M180.0 100V1.0L180.0 100ZM360.0 100V99.0L360.0 100Z");
        assert!(chart.label(10.0).contains("lowest 0/s, highest 10/s"));
        assert!(chart.markup().into_string().contains("per &lt;s&gt;"));
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        for points in [&[][..], &[None, None]] {
            let chart = chart(points, Scale::Bytes);
            let text = chart.markup().into_string();
            assert!(
                text.contains("d=\"\"") && text.contains("nothing yet"),
                "{text}"
            );
        }
    }
}
