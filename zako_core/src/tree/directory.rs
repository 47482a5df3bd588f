//! The blob that lists a folder.

use bytes::Bytes;
use prost::Message;
use zako_protobuf::tree as wire;

use super::MAX_DIRECTORY;
use crate::Digest;
use crate::cas::{CasError, ErrorKind, Result};

/// "zakotree", as the little-endian number that marks a directory.
const MAGIC: u64 = u64::from_le_bytes(*b"zakotree");

/// How every directory's encoding begins.
const PREFIX: [u8; 9] = *b"\x09zakotree";

/// The tag of an entry in the encoding of a directory.
const ENTRY_TAG: u8 = 0x12;

/// A folder's entries, sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    entries: Vec<Entry>,
}

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Any bytes but `/` and NUL; never empty, `.` or `..`.
    pub name: Bytes,
    /// What has the name.
    pub node: Node,
}

/// What a name in a folder stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A regular file.
    File {
        /// Its content.
        digest: Digest,
        /// Its permission bits, 0o7777 at most.
        mode: u32,
    },
    /// A folder.
    Folder {
        /// Its [`Directory`].
        digest: Digest,
        /// Its permission bits, 0o7777 at most.
        mode: u32,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, as the link says it.
        target: Bytes,
    },
}

/// Whether a blob that begins with these bytes (9 are enough) claims to be a
/// [`Directory`].
pub fn is_tree(blob: &[u8]) -> bool {
    blob.starts_with(&PREFIX)
}

impl Directory {
    /// A directory of these entries, in any order.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a name, mode or link target that can't be,
    /// or a name that comes twice.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self> {
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut checked = Self {
            entries: Vec::with_capacity(entries.len()),
        };
        for entry in entries {
            checked.push(entry).map_err(CasError::from)?;
        }
        Ok(checked)
    }

    /// The entries, sorted by name.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The one encoding of this directory.
    pub fn encode(&self) -> Bytes {
        let message = wire::Directory {
            magic: MAGIC,
            entries: self.entries.iter().map(Entry::to_wire).collect(),
        };
        message.encode_to_vec().into()
    }

    /// Reads a directory's blob.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if it isn't exactly what
    /// [`encode`](Self::encode) gives for some directory; the text says why not.
    pub fn decode(blob: &Bytes) -> Result<Self> {
        Self::read(blob).map_err(CasError::from)
    }

    /// Entry by entry, so that a wrong one ends it before its followers take memory.
    fn read(blob: &Bytes) -> Result<Self, Refusal> {
        if !is_tree(blob) {
            return Err(Refusal("it doesn't begin like one"));
        }
        if blob.len() as u64 > MAX_DIRECTORY {
            return Err(Refusal("it is larger than 64 MiB"));
        }
        let mut rest = blob.slice(PREFIX.len()..);
        let mut directory = Self::default();
        while let Some(tag) = rest.first() {
            if *tag != ENTRY_TAG {
                return Err(Refusal("it has an unknown field"));
            }
            let _ = rest.split_to(1);
            let before = rest.len();
            let length = prost::decode_length_delimiter(&mut rest)
                .map_err(|_| Refusal("the length of an entry is broken"))?;
            if before - rest.len() != prost::length_delimiter_len(length) {
                return Err(Refusal("the length of an entry isn't canonical"));
            }
            if length > rest.len() {
                return Err(Refusal("it ends within an entry"));
            }
            directory.push(Entry::read(rest.split_to(length))?)?;
        }
        Ok(directory)
    }

    fn push(&mut self, entry: Entry) -> Result<(), Refusal> {
        entry.check()?;
        if let Some(last) = self.entries.last() {
            match last.name.cmp(&entry.name) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return Err(Refusal("a name comes twice")),
                std::cmp::Ordering::Greater => return Err(Refusal("its names aren't sorted")),
            }
        }
        self.entries.push(entry);
        Ok(())
    }
}

impl Entry {
    fn check(&self) -> Result<(), Refusal> {
        match &self.name[..] {
            b"" => return Err(Refusal("a name is empty")),
            b"." | b".." => return Err(Refusal("a name is '.' or '..'")),
            name if name.contains(&b'/') => return Err(Refusal("a name has a '/'")),
            name if name.contains(&0) => return Err(Refusal("a name has a NUL")),
            _ => {}
        }
        match &self.node {
            Node::File { mode, .. } | Node::Folder { mode, .. } if *mode > 0o7777 => {
                Err(Refusal("a mode is more than 0o7777"))
            }
            Node::Symlink { target } if target.is_empty() => {
                Err(Refusal("a link's target is empty"))
            }
            Node::Symlink { target } if target.contains(&0) => {
                Err(Refusal("a link's target has a NUL"))
            }
            _ => Ok(()),
        }
    }

    fn read(encoded: Bytes) -> Result<Self, Refusal> {
        let message =
            wire::Entry::decode(encoded.clone()).map_err(|_| Refusal("an entry is broken"))?;
        // What was left out, repeated, reordered or unknown makes a difference.
        if encoded.len() != message.encoded_len() || encoded != message.encode_to_vec() {
            return Err(Refusal("an entry isn't canonical"));
        }
        let digest = |digest: Option<zako_protobuf::digest::Digest>| {
            let digest = digest.ok_or(Refusal("an entry has no digest"))?;
            Digest::try_from(digest).map_err(|_| Refusal("a hash is not 32 bytes"))
        };
        let node = match message.node.ok_or(Refusal("an entry has only a name"))? {
            wire::entry::Node::File(file) => Node::File {
                digest: digest(file.digest)?,
                mode: file.mode,
            },
            wire::entry::Node::Folder(folder) => Node::Folder {
                digest: digest(folder.digest)?,
                mode: folder.mode,
            },
            wire::entry::Node::Symlink(link) => Node::Symlink {
                target: link.target,
            },
        };
        Ok(Self {
            name: message.name,
            node,
        })
    }

    fn to_wire(&self) -> wire::Entry {
        let node = match &self.node {
            Node::File { digest, mode } => wire::entry::Node::File(wire::File {
                digest: Some((*digest).into()),
                mode: *mode,
            }),
            Node::Folder { digest, mode } => wire::entry::Node::Folder(wire::Folder {
                digest: Some((*digest).into()),
                mode: *mode,
            }),
            Node::Symlink { target } => wire::entry::Node::Symlink(wire::Symlink {
                target: target.clone(),
            }),
        };
        wire::Entry {
            name: self.name.clone(),
            node: Some(node),
        }
    }
}

/// Why something is no directory.
#[derive(Debug)]
struct Refusal(&'static str);

impl From<Refusal> for CasError {
    fn from(refusal: Refusal) -> Self {
        let text = format!("this is not a valid directory: {}", refusal.0);
        Self::new(ErrorKind::InvalidArgument, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(name: &[u8]) -> Entry {
        Entry {
            name: Bytes::copy_from_slice(name),
            node: Node::File {
                digest: Digest::EMPTY,
                mode: 0o644,
            },
        }
    }

    fn link(name: &[u8], target: &[u8]) -> Entry {
        Entry {
            name: Bytes::copy_from_slice(name),
            node: Node::Symlink {
                target: Bytes::copy_from_slice(target),
            },
        }
    }

    /// Encodes without any check.
    fn raw(entries: &[Entry]) -> Bytes {
        let entries = entries.to_vec();
        Directory { entries }.encode()
    }

    fn refusal(blob: impl Into<Bytes>) -> String {
        let error = Directory::decode(&blob.into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        error.message().to_owned()
    }

    #[test]
    fn the_encoding_is_as_written_down() {
        let empty = Directory::default().encode();
        assert_eq!(&empty[..], b"\x09zakotree");
        assert!(is_tree(&empty));
        assert!(!is_tree(b"\x09zakotre"));
        let one = Directory::new(vec![link(b"a", b"bc")]).unwrap().encode();
        assert_eq!(&one[..], b"\x09zakotree\x12\x09\x0a\x01a\x22\x04\x0a\x02bc");
    }

    #[test]
    fn hostile_names_and_modes_are_refused() {
        for (name, word) in [
            (&b""[..], "empty"),
            (b".", "'.'"),
            (b"..", "'..'"),
            (b"a/b", "'/'"),
            (b"/", "'/'"),
            (b"../x", "'/'"),
            (b"a\0", "NUL"),
        ] {
            assert!(refusal(raw(&[file(name)])).contains(word), "{name:?}");
            assert!(Directory::new(vec![file(name)]).is_err());
        }
        for target in [&b""[..], b"a\0b"] {
            assert!(refusal(raw(&[link(b"a", target)])).contains("target"));
        }
        let mut wide = file(b"a");
        wide.node = Node::File {
            digest: Digest::EMPTY,
            mode: 0o10000,
        };
        assert!(refusal(raw(&[wide.clone()])).contains("mode"));
        assert!(Directory::new(vec![wide]).is_err());
        assert!(refusal(raw(&[file(b"a"), file(b"a")])).contains("twice"));
        assert!(refusal(raw(&[file(b"b"), file(b"a")])).contains("sorted"));
        assert!(Directory::new(vec![file(b"a"), link(b"a", b"b")]).is_err());
        assert!(Directory::new(vec![file(b"b"), file(b"a")]).is_ok());
    }

    #[test]
    fn only_the_canonical_encoding_is_taken() {
        let good = raw(&[link(b"a", b"bc")]);
        assert!(Directory::decode(&good).is_ok());
        let magic = |tail: &[u8]| [&PREFIX[..], tail].concat();
        for (blob, word) in [
            (b"".to_vec(), "begin"),
            (b"zakotree".to_vec(), "begin"),
            (good[9..].to_vec(), "begin"),
            ([&good[..], b"\x18\x01"].concat(), "unknown"),
            // The magic again.
            ([&good[..], &PREFIX].concat(), "unknown"),
            (good[..good.len() - 1].to_vec(), "ends within"),
            (magic(b"\x12"), "length"),
            (
                magic(b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),
                "length",
            ),
            (magic(b"\x12\xff\xff\xff\xff\x0f"), "ends within"),
            (
                magic(b"\x12\x89\x00\x0a\x01a\x22\x04\x0a\x02bc"),
                "canonical",
            ),
            (magic(b"\x12\x00"), "only a name"),
            (magic(b"\x12\x03\x0a\x01a"), "only a name"),
            // The target before the name.
            (magic(b"\x12\x09\x22\x04\x0a\x02bc\x0a\x01a"), "canonical"),
            // The name twice.
            (
                magic(b"\x12\x0c\x0a\x01a\x0a\x01a\x22\x04\x0a\x02bc"),
                "canonical",
            ),
            // A field from the future.
            (
                magic(b"\x12\x0b\x0a\x01a\x22\x04\x0a\x02bc\x28\x01"),
                "canonical",
            ),
            (magic(b"\x12\x05\x0a\x01a\x12\x00"), "no digest"),
            (magic(b"\x12\x07\x0a\x01a\x12\x02\x0a\x00"), "32 bytes"),
            (magic(b"\x12\x02\x0a\x09"), "broken"),
        ] {
            let text = refusal(blob.clone());
            assert!(text.contains(word), "{text}: {blob:?}");
        }
    }

    fn any_entry() -> impl Strategy<Value = Entry> {
        let node = prop_oneof![
            (any::<[u8; 32]>(), any::<u64>(), 0u32..=0o7777).prop_map(|(hash, size, mode)| {
                let digest = Digest::new(crate::Hash::from_bytes(hash), size);
                Node::File { digest, mode }
            }),
            (any::<[u8; 32]>(), any::<u64>(), 0u32..=0o7777).prop_map(|(hash, size, mode)| {
                let digest = Digest::new(crate::Hash::from_bytes(hash), size);
                Node::Folder { digest, mode }
            }),
            prop::collection::vec(1u8.., 1..20).prop_map(|target| Node::Symlink {
                target: target.into()
            }),
        ];
        (prop::collection::vec(b'a'..=b'c', 1..6), node).prop_map(|(name, node)| Entry {
            name: name.into(),
            node,
        })
    }

    proptest! {
        #[test]
        fn directories_round_trip(entries in prop::collection::vec(any_entry(), 0..8)) {
            if let Ok(directory) = Directory::new(entries) {
                let blob = directory.encode();
                prop_assert!(is_tree(&blob));
                prop_assert_eq!(Directory::decode(&blob).unwrap(), directory);
            }
        }

        #[test]
        fn what_decodes_is_canonical(
            entries in prop::collection::vec(any_entry(), 1..4),
            at: prop::sample::Index,
            change: u8,
        ) {
            if let Ok(directory) = Directory::new(entries) {
                let mut blob = directory.encode().to_vec();
                let at = at.index(blob.len());
                blob[at] ^= change;
                let blob = Bytes::from(blob);
                if let Ok(decoded) = Directory::decode(&blob) {
                    prop_assert_eq!(decoded.encode(), blob);
                }
            }
        }

        #[test]
        fn any_bytes_are_survived(tail: Vec<u8>) {
            let blob = Bytes::from([&PREFIX[..], &tail].concat());
            if let Ok(decoded) = Directory::decode(&blob) {
                prop_assert_eq!(decoded.encode(), blob);
            }
        }
    }
}
