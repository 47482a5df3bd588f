//! Digests on the command line and on stdin.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufRead};
use std::path::Path;
use std::str::FromStr;

use serde::Serialize;
use zako_core::Digest;

use crate::failure::Failure;
use crate::spool::off_thread;

/// A digest, or `-` for those on stdin.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DigestArg {
    Digest(Digest),
    Stdin,
}

/// A digest and the path it was made of, as `hash` and `put` print them.
#[derive(Serialize)]
pub(crate) struct Named<'a> {
    digest: String,
    path: Cow<'a, str>,
}

/// The longest line of stdin that is looked at, in bytes.
const LONGEST_LINE: u64 = 64 << 10;

/// All digests that `args` name. On stdin the first word of each line counts, so
/// that the output of `zako put` can be piped in.
///
/// # Errors
/// Stdin can't be read, or has a line that begins with no digest.
pub(crate) async fn collect(args: Vec<DigestArg>) -> Result<Vec<Digest>, Failure> {
    off_thread(move || {
        let mut digests = Vec::with_capacity(args.len());
        for arg in args {
            match arg {
                DigestArg::Digest(digest) => digests.push(digest),
                DigestArg::Stdin => read(io::stdin().lock(), &mut digests)?,
            }
        }
        Ok(digests)
    })
    .await
}

fn read(mut lines: impl BufRead, digests: &mut Vec<Digest>) -> Result<(), Failure> {
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let read = io::Read::take(&mut lines, LONGEST_LINE)
            .read_until(b'\n', &mut line)
            .map_err(|error| Failure::io("reading", Path::new("stdin"), &error))?;
        if read == 0 {
            break;
        }
        let text = String::from_utf8_lossy(&line);
        if let Some(word) = text.split_whitespace().next() {
            let digest = word.parse().map_err(|error| {
                Failure::usage(format!("line {number} of stdin: {error}"))
                    .advise("Each line begins with a digest, as `zako put` prints them.")
            })?;
            digests.push(digest);
        }
    }
    Ok(())
}

impl<'a> Named<'a> {
    pub(crate) fn new(digest: &Digest, path: &'a Path) -> Self {
        Self {
            digest: digest.to_string(),
            path: path.to_string_lossy(),
        }
    }
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {}", self.digest, self.path)
    }
}

impl FromStr for DigestArg {
    type Err = zako_digest::ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "-" => Ok(Self::Stdin),
            _ => text.parse().map(Self::Digest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_of_each_line() {
        let digest = Digest::EMPTY;
        let mut digests = Vec::new();
        let text = format!("{digest}  some file\n\n  {}\n", digest.file_name());
        read(text.as_bytes(), &mut digests).unwrap();
        assert_eq!(digests, [digest, digest]);

        let text = format!("{digest}\nabc\n");
        let failure = read(text.as_bytes(), &mut digests).unwrap_err();
        assert!(
            failure.to_string().starts_with("line 2 of stdin"),
            "{failure}"
        );
        let endless = vec![b'a'; 3 << 20];
        assert!(read(&endless[..], &mut digests).is_err());
    }
}
