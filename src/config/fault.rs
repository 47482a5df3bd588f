//! Something wrong in `zako.toml`, and where.

use std::fmt;
use std::ops::Range;

use serde::Serialize;

/// Something wrong in `zako.toml`, shown with its line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Fault {
    file: String,
    /// From 1.
    line: usize,
    /// From 1, in letters.
    column: usize,
    error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
    /// The line's text.
    text: String,
    /// How many letters of it are meant.
    #[serde(skip)]
    length: usize,
}

impl Fault {
    /// Something at these bytes of the text of a file.
    pub(super) fn new(
        file: &str,
        text: &str,
        span: Range<usize>,
        error: impl Into<String>,
    ) -> Self {
        let begin = floor(text, span.start);
        let end = floor(text, span.end.max(begin));
        let line_begin = text[..begin].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[begin..].find('\n').map_or(text.len(), |at| begin + at);
        let line = text[line_begin..line_end].trim_end_matches('\r');
        let meant = text[begin..end.min(line_end)].chars().count();
        Self {
            file: file.to_owned(),
            line: text[..begin].matches('\n').count() + 1,
            column: text[line_begin..begin].chars().count() + 1,
            error: error.into(),
            advice: None,
            text: masked(line),
            length: meant.max(1),
        }
    }

    #[must_use]
    pub(super) fn advise(self, advice: Option<String>) -> Self {
        Self { advice, ..self }
    }

    /// Where it stands in the file.
    pub(super) fn place(&self) -> (usize, usize) {
        (self.line, self.column)
    }
}

/// The line, with stars for the letters of tokens that stand where their hashes should.
fn masked(line: &str) -> String {
    let mut parts = line.split(zako_access::TOKEN_PREFIX);
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let letters = part.bytes().take_while(u8::is_ascii_alphanumeric).count();
        shown.push_str(zako_access::TOKEN_PREFIX);
        let masked = match letters >= 32 || line.contains("token") {
            true => letters,
            // The name of a file, say.
            false => 0,
        };
        shown.push_str(&"*".repeat(masked));
        shown.push_str(&part[masked..]);
    }
    shown
}

/// The start of the letter at a byte.
fn floor(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at)
        .rev()
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0)
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file, line, column, ..
        } = self;
        writeln!(f, "{file}: line {line}, column {column}: {}", self.error)?;
        let gutter = line.to_string().len();
        // A tab before the mark keeps it below what it marks.
        let before = self.text.chars().take(column - 1);
        let indent: String = before
            .map(|letter| if letter == '\t' { '\t' } else { ' ' })
            .collect();
        writeln!(f, "{line} | {}", self.text)?;
        write!(f, "{:gutter$} | {indent}{}", "", "^".repeat(self.length))?;
        match &self.advice {
            Some(advice) => write!(f, "\n  {advice}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_shown_with_a_mark_below_it() {
        let text = "[a]\r\n\tñame = \"x\"\r\n";
        let begin = text.find("ñame").unwrap();
        let fault = Fault::new("f", text, begin..begin + 5, "no");
        assert_eq!(
            fault.to_string(),
            "f: line 2, column 2: no\n2 | \tñame = \"x\"\n  | \t^^^^"
        );
        assert_eq!(fault.place(), (2, 2));
    }

    #[test]
    fn a_token_is_not_shown() {
        let text = "token-sha256 = [\"zako_12ab\", \"zako_\"]";
        let fault = Fault::new("f", text, 16..27, "no").to_string();
        assert!(fault.contains("[\"zako_****\", \"zako_\"]"), "{fault}");
    }

    #[test]
    fn any_bytes_are_somewhere() {
        for text in ["", "\n", "é", "a\n"] {
            for begin in 0..4 {
                let fault = Fault::new("f", text, begin..begin + 1, "no");
                assert!(fault.to_string().contains("^"), "{text:?}");
            }
        }
    }
}
