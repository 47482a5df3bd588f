//! The blobs that are moved.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use bytes::Bytes;
use zako_core::Digest;

use crate::Outcome;
use crate::blobs::blobs;

/// So many blobs of one size; what they hold follows from that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) kind: Kind,
    pub(crate) count: usize,
    pub(crate) size: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Large,
    Small,
}

impl Load {
    pub(crate) fn large(short: bool) -> Self {
        let size = if short { 3 << 20 } else { 64 << 20 };
        Self {
            kind: Kind::Large,
            count: 8,
            size,
        }
    }

    pub(crate) fn small(short: bool) -> Self {
        let count = if short { 500 } else { 20_000 };
        Self {
            kind: Kind::Small,
            count,
            size: 8 << 10,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Large => "large",
            Kind::Small => "small",
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.count as u64 * self.size as u64
    }

    /// How many blobs are under way at once.
    pub(crate) fn at_once(&self) -> usize {
        match self.kind {
            Kind::Large => 4,
            Kind::Small => 64,
        }
    }

    pub(crate) fn blobs(&self) -> Vec<(Digest, Bytes)> {
        blobs(1 + self.kind as u64, self.count, self.size)
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.name(), self.count, self.size)
    }
}

impl FromStr for Load {
    type Err = Box<dyn std::error::Error + Send + Sync>;

    fn from_str(text: &str) -> Outcome<Self> {
        let [kind, count, size] = text.split(':').collect::<Vec<_>>()[..] else {
            return Err(format!("{text:?} is no load").into());
        };
        let kind = match kind {
            "large" => Kind::Large,
            "small" => Kind::Small,
            other => return Err(format!("{other:?} is no kind of load").into()),
        };
        Ok(Self {
            kind,
            count: count.parse()?,
            size: size.parse()?,
        })
    }
}

/// Writes names of blobs for [`read_list`].
pub(crate) fn write_list(path: &Path, blobs: &[(Digest, Bytes)]) -> Outcome<()> {
    let lines = blobs.iter().map(|(digest, _)| digest.file_name() + "\n");
    Ok(std::fs::write(path, lines.collect::<String>())?)
}

pub(crate) fn read_list(path: &Path) -> Outcome<Vec<Digest>> {
    let text = std::fs::read_to_string(path)?;
    text.lines().map(|line| Ok(line.parse()?)).collect()
}
