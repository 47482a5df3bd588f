//! Format numbers of what lies on disk: which are opened, and what is said of others.
//!
//! There is one of each so far. A later version that can't open an older one as it is
//! names the command that rewrites it in the refusal.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::cas::{CasError, ErrorKind};

/// What has a format number of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    /// For people: "the store".
    pub(crate) what: &'static str,
    /// The oldest that is opened as it is.
    pub(crate) oldest: u32,
    /// What is written.
    pub(crate) newest: u32,
}

/// The format of stores.
pub(crate) const STORE: Format = Format {
    what: "the store",
    oldest: 1,
    newest: 1,
};

/// The format of alias tables.
pub(crate) const ALIASES: Format = Format {
    what: "the alias table",
    oldest: 1,
    newest: 1,
};

/// The format numbers in a store's folder, beside those that this version opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Formats {
    /// Of the store.
    pub store: FoundFormat,
    /// Of the alias table in it; `None` if there is none.
    pub aliases: Option<FoundFormat>,
}

/// A format number as it was found, which may be any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundFormat {
    format: Format,
    number: u32,
}

/// Where the number stands in both files, behind a name of 8 bytes.
const NUMBER_AT: usize = 8;

impl Format {
    /// Whether this version opens it.
    pub(crate) fn knows(self, number: u32) -> bool {
        (self.oldest..=self.newest).contains(&number)
    }

    /// The error for a number that this version doesn't open.
    pub(crate) fn refuse(self, number: u32) -> CasError {
        CasError::new(ErrorKind::Format, self.refusal(number))
    }

    fn refusal(self, number: u32) -> String {
        let Self {
            what,
            oldest,
            newest,
        } = self;
        let version = env!("CARGO_PKG_VERSION");
        if number > newest {
            return format!(
                "{what} was written by a newer zako: it has format {number}, and this one \
                 ({version}) knows formats up to {newest}. Use that version"
            );
        }
        format!(
            "{what} has format {number}, which no version of zako that was released writes; \
             this one ({version}) opens formats from {oldest} to {newest}"
        )
    }

    /// The number in this file; `None` if there is no such file.
    fn read(self, path: &Path) -> io::Result<Option<FoundFormat>> {
        let mut start = [0; NUMBER_AT + 4];
        match File::open(path).and_then(|mut file| file.read_exact(&mut start)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        let [.., a, b, c, d] = start;
        Ok(Some(FoundFormat {
            format: self,
            number: u32::from_le_bytes([a, b, c, d]),
        }))
    }
}

impl Formats {
    /// Reads the numbers in a folder without opening the store in it; `None` if there is
    /// none.
    ///
    /// # Errors
    /// The files that have them can't be read.
    pub fn of(folder: &Path) -> io::Result<Option<Self>> {
        let Some(store) = STORE.read(&folder.join("zako.store"))? else {
            return Ok(None);
        };
        let aliases = ALIASES.read(&folder.join("aliases/aliases.log"))?;
        Ok(Some(Self { store, aliases }))
    }

    /// Why this version can't open the folder, if it can't.
    pub fn refusal(&self) -> Option<String> {
        let both = [Some(self.store), self.aliases];
        both.into_iter().flatten().find_map(|it| it.refusal())
    }
}

impl FoundFormat {
    /// The number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Why this version can't open it, if it can't.
    pub fn refusal(&self) -> Option<String> {
        let Self { format, number } = *self;
        (!format.knows(number)).then(|| format.refusal(number))
    }
}

impl fmt::Display for Formats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store {}", self.store.number)?;
        match self.aliases {
            Some(aliases) => write!(f, ", aliases {}", aliases.number),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_refused() {
        for format in [STORE, ALIASES] {
            assert!(format.knows(format.oldest) && format.knows(format.newest));
            assert!(!format.knows(format.newest + 1) && !format.knows(format.oldest - 1));
            let newer = format.refuse(format.newest + 1);
            assert_eq!(newer.kind(), ErrorKind::Format);
            assert!(newer.to_string().contains("newer zako"), "{newer}");
            let older = format.refuse(format.oldest - 1);
            assert!(older.to_string().contains("format 0"), "{older}");
        }
    }
}
