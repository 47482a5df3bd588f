//! Figures, their medians, and how they are shown.

use std::fmt::Write;

use serde_json::{Value, json};

/// Tables of figures; each cell holds one sample a round.
#[derive(Debug, Default)]
pub(crate) struct Report {
    tables: Vec<Table>,
}

#[derive(Debug)]
struct Table {
    title: &'static str,
    columns: Vec<&'static str>,
    rows: Vec<(&'static str, Vec<Vec<f64>>)>,
}

/// What a figure should reach.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

/// A goal of a figure, by its table, row and column.
pub(crate) type Goals = [(&'static str, &'static str, &'static str, Goal)];

impl Report {
    /// Adds one round's figures of a row: pairs of column and sample.
    pub(crate) fn add(
        &mut self,
        title: &'static str,
        row: &'static str,
        cells: &[(&'static str, f64)],
    ) {
        let at = self.tables.iter().position(|table| table.title == title);
        let at = at.unwrap_or_else(|| {
            self.tables.push(Table {
                title,
                columns: Vec::new(),
                rows: Vec::new(),
            });
            self.tables.len() - 1
        });
        for (column, sample) in cells {
            self.tables[at].add(row, column, *sample);
        }
    }

    fn samples(&self, title: &str, row: &str, column: &str) -> Option<&[f64]> {
        let table = self.tables.iter().find(|table| table.title == title)?;
        let column = table.columns.iter().position(|one| *one == column)?;
        let (_, cells) = table.rows.iter().find(|(name, _)| *name == row)?;
        cells.get(column).map(Vec::as_slice)
    }

    /// Markdown: medians, and the range of all rounds where there are several.
    pub(crate) fn text(&self, goals: &Goals) -> String {
        let mut text = String::new();
        for table in &self.tables {
            let mut cells = vec![vec![table.title.to_owned()]];
            cells[0].extend(table.columns.iter().map(|&name| name.to_owned()));
            for (name, row) in &table.rows {
                let mut line = vec![(*name).to_owned()];
                for column in 0..table.columns.len() {
                    line.push(row.get(column).map_or("".into(), |all| shown(all)));
                }
                cells.push(line);
            }
            aligned(&mut text, &cells);
        }
        let mut cells = vec![
            ["Goal", "should be", "is", "reached"]
                .map(str::to_owned)
                .to_vec(),
        ];
        for (title, row, column, goal) in goals {
            let Some(is) = self.samples(title, row, column).and_then(median) else {
                continue;
            };
            let (should, reached) = match goal {
                Goal::AtLeast(least) => (format!("≥ {}", number(*least)), is >= *least),
                Goal::AtMost(most) => (format!("≤ {}", number(*most)), is <= *most),
            };
            let reached = if reached { "yes" } else { "no" };
            let what = format!("{title}, {row}: {column}");
            cells.push(vec![what, should, number(is), reached.to_owned()]);
        }
        if cells.len() > 1 {
            aligned(&mut text, &cells);
        }
        text
    }

    /// An object for each figure, one a line.
    pub(crate) fn json(&self) -> String {
        let mut text = String::new();
        for table in &self.tables {
            for (row, cells) in &table.rows {
                for (column, samples) in table.columns.iter().zip(cells) {
                    let Some(median) = median(samples) else {
                        continue;
                    };
                    let value: Value = json!({
                        "table": table.title, "row": row, "figure": column,
                        "median": median, "samples": samples,
                    });
                    let _ = writeln!(text, "{value}");
                }
            }
        }
        text
    }
}

impl Table {
    fn add(&mut self, row: &'static str, column: &'static str, sample: f64) {
        let column = match self.columns.iter().position(|one| *one == column) {
            Some(at) => at,
            None => {
                self.columns.push(column);
                self.columns.len() - 1
            }
        };
        let at = match self.rows.iter().position(|(name, _)| *name == row) {
            Some(at) => at,
            None => {
                self.rows.push((row, Vec::new()));
                self.rows.len() - 1
            }
        };
        let cells = &mut self.rows[at].1;
        if cells.len() <= column {
            cells.resize(column + 1, Vec::new());
        }
        cells[column].push(sample);
    }
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut samples = samples.to_vec();
    samples.sort_by(f64::total_cmp);
    samples
}

/// The share `at` (0 to 1) of the samples is at most this; `None` without any.
pub(crate) fn quantile(samples: &[f64], at: f64) -> Option<f64> {
    let samples = sorted(samples);
    let place = (samples.len() as f64 * at) as usize;
    samples
        .get(place.min(samples.len().checked_sub(1)?))
        .copied()
}

fn median(samples: &[f64]) -> Option<f64> {
    let samples = sorted(samples);
    let middle = samples.len() / 2;
    match samples.len() {
        0 => None,
        even if even % 2 == 0 => Some((samples[middle - 1] + samples[middle]) / 2.0),
        _ => Some(samples[middle]),
    }
}

fn shown(samples: &[f64]) -> String {
    let Some(median) = median(samples) else {
        return String::new();
    };
    let samples = sorted(samples);
    match samples.as_slice() {
        [least, .., most] => {
            format!("{} ({}–{})", number(median), number(*least), number(*most))
        }
        _ => number(median),
    }
}

/// Three digits at least, thousands apart.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        small if small < 1.0 => 3,
        small if small < 10.0 => 2,
        small if small < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    let whole = text.len() - if digits > 0 { digits + 1 } else { 0 };
    let mut out = String::with_capacity(text.len() + 3);
    for (at, char) in text.chars().enumerate() {
        if at > 0 && at < whole && (whole - at) % 3 == 0 {
            out.push(',');
        }
        out.push(char);
    }
    out
}

fn aligned(text: &mut String, cells: &[Vec<String>]) {
    let count = cells.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count)
        .map(|column| {
            let lengths = cells.iter().filter_map(|row| row.get(column));
            lengths.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    for (at, row) in cells.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "| {cell:width$} ");
        }
        text.push_str("|\n");
        if at == 0 {
            for width in &widths {
                let _ = write!(text, "| {} ", "-".repeat(*width));
            }
            text.push_str("|\n");
        }
    }
    text.push('\n');
}
