//! Quantities for a person.

/// `1.5 GiB`, `970 KiB`, `12 B`.
pub(super) fn bytes(bytes: f64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut number, mut unit) = (bytes, 0);
    while number >= 999.5 && unit + 1 < UNITS.len() {
        (number, unit) = (number / 1024.0, unit + 1);
    }
    let unit = UNITS[unit];
    if number >= 99.95 || number.fract() == 0.0 {
        format!("{number:.0} {unit}")
    } else {
        format!("{number:.1} {unit}")
    }
}

/// `12 345`, with spaces that don't break.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 2);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A rate that isn't of bytes: `0.4`, `12.3`, `1 234`.
pub(super) fn rate(number: f64) -> String {
    if number.fract() == 0.0 && number < 100.0 {
        format!("{number:.0}")
    } else if number < 0.1 {
        format!("{number:.2}")
    } else if number < 100.0 {
        format!("{number:.1}")
    } else {
        count(number.round() as u64)
    }
}

/// `640 µs`, `12 ms`, `1.5 s`.
pub(super) fn seconds(seconds: f64) -> String {
    let (number, unit) = match seconds {
        s if s < 0.001 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    if number < 9.95 && number.fract() != 0.0 {
        format!("{number:.1} {unit}")
    } else {
        format!("{number:.0} {unit}")
    }
}

/// `98.3 %`.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent == 0.0 || percent == 100.0 {
        format!("{percent:.0} %")
    } else if percent > 99.9 {
        // Not all.
        "99.9 %".to_owned()
    } else {
        format!("{percent:.1} %")
    }
}

/// `3 d 4 h`, `5 min`, `12 s`.
pub(super) fn long(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min"),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_short() {
        let of = [0.0, 12.0, 1000.0, 1536.0, 993_000.0, 20.0 * 1024.0 * 1024.0].map(bytes);
        assert_eq!(
            of.join(", "),
            "0 B, 12 B, 1.0 KiB, 1.5 KiB, 970 KiB, 20 MiB"
        );
        assert_eq!(bytes(u64::MAX as f64), "16 EiB");
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(
            [0.0, 0.04, 12.34, 1234.5].map(rate).join(" "),
            "0 0.04 12.3 1\u{202f}235"
        );
        let of = [0.000_64, 0.0015, 0.25, 1.5, 90.0].map(seconds);
        assert_eq!(of.join(", "), "640 µs, 1.5 ms, 250 ms, 1.5 s, 90 s");
        let of = [0.0, 0.5, 0.9996, 1.0].map(percent);
        assert_eq!(of.join(", "), "0 %, 50.0 %, 99.9 %, 100 %");
        assert_eq!(
            [9, 61, 7300, 180_000].map(long).join(", "),
            "9 s, 1 min, 2 h 1 min, 2 d 2 h"
        );
    }
}
