//! What directories and trees name, and walking directories down from a root.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use prost::Message;
use zako_core::alias::AliasKey;
use zako_core::cas::{CasError, ErrorKind, Lease, Result};

use super::Cache;
use super::values::present;
use crate::digest::{DigestFunction, RemoteDigest};

/// The most directories that a walk visits; it remembers each with some 100 bytes.
const MAX_DIRECTORIES: usize = 1 << 18;

/// The longest directory, in bytes.
const MAX_DIRECTORY: u64 = 16 << 20;

/// What a walk reads at once: so many directories, and of so many bytes (or one).
const STEP: usize = 512;
const STEP_BYTES: u64 = 1 << 20;

/// The blobs that a directory or a tree names.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) files: Vec<RemoteDigest>,
    pub(super) directories: Vec<RemoteDigest>,
}

/// A walk through directories, breadth first, each of them once. It leases what it finds.
#[derive(Debug)]
pub(crate) struct Walk {
    cache: Cache,
    queue: VecDeque<RemoteDigest>,
    seen: HashSet<AliasKey>,
}

/// A directory that a walk came to.
#[derive(Debug)]
pub(crate) struct Visited {
    /// The directory as it is stored; `None` if it is absent, or is no directory.
    pub(crate) data: Option<Bytes>,
    /// The files in it.
    pub(super) files: Vec<RemoteDigest>,
}

impl Names {
    /// What a `Directory` names.
    pub(super) fn of_directory(function: DigestFunction, data: Bytes) -> Result<Self> {
        let mut names = Self::default();
        names.add(function, &Directory::decode(data).map_err(malformed)?)?;
        Ok(names)
    }

    /// What the directories of a `Tree` name.
    pub(super) fn of_tree(function: DigestFunction, data: Bytes) -> Result<Self> {
        let tree = Tree::decode(data).map_err(malformed)?;
        let mut names = Self::default();
        for directory in tree.root.iter().chain(&tree.children) {
            names.add(function, directory)?;
        }
        Ok(names)
    }

    fn add(&mut self, function: DigestFunction, directory: &Directory) -> Result<()> {
        for (nodes, names) in [
            (&directory.files, &mut self.files),
            (&directory.directories, &mut self.directories),
        ] {
            names.reserve(nodes.len());
            for node in nodes {
                names.push(node.digest(function)?);
            }
        }
        Ok(())
    }
}

impl Walk {
    pub(crate) fn new(cache: Cache, roots: &[RemoteDigest]) -> Self {
        let mut walk = Self {
            cache,
            queue: VecDeque::new(),
            seen: HashSet::new(),
        };
        walk.push(roots);
        walk
    }

    /// Some directories more; none at the end.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] for more directories than a walk visits, or one that is
    /// too long; those of the store.
    pub(crate) async fn next(&mut self) -> Result<Vec<Visited>> {
        let step = self.step()?;
        let absent = self.cache.missing(&step, Lease::Default).await?;
        let mut absent = absent.into_iter().peekable();
        let place = |(at, digest)| match absent.next_if_eq(&at) {
            Some(_) => None,
            None => Some(digest),
        };
        let here: Vec<Option<&RemoteDigest>> = step.iter().enumerate().map(place).collect();
        let wanted: Vec<RemoteDigest> = here.iter().flatten().copied().copied().collect();
        let mut fetched = self.cache.fetch_batch(&wanted).await.into_iter();
        let mut visited = Vec::with_capacity(step.len());
        for digest in here {
            let data = match digest.and_then(|_| fetched.next()) {
                Some(read) => present(read)?,
                None => None,
            };
            visited.push(self.visit(digest, data)?);
        }
        Ok(visited)
    }

    fn step(&mut self) -> Result<Vec<RemoteDigest>> {
        let (mut step, mut bytes) = (Vec::new(), 0);
        while let Some(digest) = self.queue.front() {
            let size = digest.size();
            if size > MAX_DIRECTORY {
                let text = format!("the directory {digest} is longer than {MAX_DIRECTORY} bytes");
                return Err(CasError::new(ErrorKind::NoSpace, text));
            }
            bytes += size;
            if step.len() == STEP || (bytes > STEP_BYTES && !step.is_empty()) {
                break;
            }
            step.extend(self.queue.pop_front());
        }
        Ok(step)
    }

    fn visit(&mut self, digest: Option<&RemoteDigest>, data: Option<Bytes>) -> Result<Visited> {
        let decode = |digest: &RemoteDigest| {
            let names = Names::of_directory(digest.function(), data.clone()?);
            names.ok()
        };
        let Some(names) = digest.and_then(decode) else {
            return Ok(Visited {
                data: None,
                files: Vec::new(),
            });
        };
        self.push(&names.directories);
        if self.seen.len() > MAX_DIRECTORIES {
            let text = format!("the tree has more than {MAX_DIRECTORIES} directories");
            return Err(CasError::new(ErrorKind::NoSpace, text));
        }
        Ok(Visited {
            data,
            files: names.files,
        })
    }

    fn push(&mut self, directories: &[RemoteDigest]) {
        let seen = &mut self.seen;
        let new = directories
            .iter()
            .filter(|digest| seen.insert(digest.key()));
        self.queue.extend(new.copied());
    }
}

fn malformed(error: prost::DecodeError) -> CasError {
    CasError::new(ErrorKind::InvalidArgument, "no such message").with_source(error)
}

// The messages of the API without what is of no interest here: names above all, which
// would be most of what is decoded.

#[derive(Clone, PartialEq, Message)]
struct Tree {
    #[prost(message, optional, tag = "1")]
    root: Option<Directory>,
    #[prost(message, repeated, tag = "2")]
    children: Vec<Directory>,
}

#[derive(Clone, PartialEq, Message)]
struct Directory {
    #[prost(message, repeated, tag = "1")]
    files: Vec<Node>,
    #[prost(message, repeated, tag = "2")]
    directories: Vec<Node>,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(message, optional, tag = "2")]
    digest: Option<NodeDigest>,
}

#[derive(Clone, PartialEq, Message)]
struct NodeDigest {
    #[prost(bytes = "bytes", tag = "1")]
    hash: Bytes,
    #[prost(int64, tag = "2")]
    size_bytes: i64,
}

impl Node {
    fn digest(&self, function: DigestFunction) -> Result<RemoteDigest> {
        let wrong = || CasError::new(ErrorKind::InvalidArgument, "a node without a digest");
        let digest = self.digest.as_ref().ok_or_else(wrong)?;
        let hex = std::str::from_utf8(&digest.hash).map_err(|_| wrong())?;
        let size = u64::try_from(digest.size_bytes).map_err(|_| wrong())?;
        RemoteDigest::parse(Some(function), hex, size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::reapi;

    #[test]
    fn names_are_those_that_the_apis_messages_have() {
        let function = DigestFunction::Sha256;
        let digests: Vec<RemoteDigest> = (0..4u8).map(|at| function.digest(&[at])).collect();
        let file = |at: usize| reapi::FileNode {
            name: format!("file {at}"),
            digest: Some(digests[at].to_wire()),
            is_executable: true,
            ..reapi::FileNode::default()
        };
        let child = reapi::Directory {
            files: vec![file(0), file(1)],
            ..reapi::Directory::default()
        };
        let root = reapi::Directory {
            files: vec![file(2)],
            directories: vec![reapi::DirectoryNode {
                name: "child".to_owned(),
                digest: Some(digests[3].to_wire()),
            }],
            ..reapi::Directory::default()
        };
        let data = root.encode_to_vec();
        let names = Names::of_directory(function, data.into()).unwrap();
        assert_eq!(names.files, digests[2..3]);
        assert_eq!(names.directories, digests[3..]);
        let tree = reapi::Tree {
            root: Some(root),
            children: vec![child],
        };
        let data = Bytes::from(tree.encode_to_vec());
        let names = Names::of_tree(function, data.clone()).unwrap();
        assert_eq!(names.files, [digests[2], digests[0], digests[1]]);
        assert!(Names::of_tree(function, data.slice(..data.len() - 1)).is_err());
        assert!(Names::of_tree(DigestFunction::Sha1, data).is_err());
    }
}
