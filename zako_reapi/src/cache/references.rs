//! What a result refers to, and keeping all of it.

use bytes::Bytes;
use tokio::sync::SemaphorePermit;
use zako_core::BlobRange;
use zako_core::cas::{CasError, ErrorKind, Lease, Result};

use super::Cache;
use super::directories::{Names, Walk};
use super::values::present;
use crate::digest::{DigestFunction, RemoteDigest};
use crate::proto::reapi::{self, ActionResult};

/// The KiB of trees that may be in memory at a time.
pub(super) const TREES_KIB: usize = 256 << 10;

/// The longest tree, in bytes.
const MAX_TREE: u64 = 64 << 20;

/// The most blobs that a result may refer to.
const MAX_REFERENCES: usize = 1 << 20;

/// Blobs that are asked for at once.
const STEP: usize = 1 << 16;

/// The blobs without which a result is of no use.
#[derive(Debug, Default)]
pub(super) struct References {
    pub(super) blobs: Vec<RemoteDigest>,
    /// `Tree`s: with them, the files that they name.
    pub(super) trees: Vec<Output>,
    /// `Directory`s: with them, all that is below them.
    pub(super) directories: Vec<RemoteDigest>,
}

/// A directory that an action made.
#[derive(Debug)]
pub(super) struct Output {
    tree: RemoteDigest,
    /// Whether the directories of the tree are also blobs of their own.
    has_directories: bool,
}

impl References {
    /// Those of an action result.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if one has no good digest, [`ErrorKind::NoSpace`]
    /// if they are too many or too long.
    pub(super) fn of_result(function: DigestFunction, result: &ActionResult) -> Result<Self> {
        let mut references = Self::default();
        let digest = |of: &str, digest: Option<&reapi::Digest>| {
            let digest = digest.ok_or_else(|| invalid(format!("{of} has no digest")))?;
            RemoteDigest::of_wire(Some(function), digest)
                .map_err(|error| invalid(format!("{of}: {}", error.message())))
        };
        for file in &result.output_files {
            let of = || format!("the output file {:?}", file.path);
            references.blobs.push(digest(&of(), file.digest.as_ref())?);
        }
        for (name, output) in [
            ("stdout", &result.stdout_digest),
            ("stderr", &result.stderr_digest),
        ] {
            if let Some(output) = said(output) {
                references.blobs.push(digest(name, Some(output))?);
            }
        }
        for directory in &result.output_directories {
            let of = || format!("the output directory {:?}", directory.path);
            let root = said(&directory.root_directory_digest);
            let root = root.map(|root| digest(&of(), Some(root))).transpose()?;
            match (said(&directory.tree_digest), root) {
                (None, Some(root)) => references.directories.push(root),
                (tree, root) => {
                    let tree = digest(&of(), tree)?;
                    let has_directories = root.is_some();
                    references.blobs.extend(root);
                    references.trees.push(Output {
                        tree,
                        has_directories,
                    });
                }
            }
        }
        references.check()?;
        Ok(references)
    }

    /// Whether they can be kept.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] if they are too many or too long.
    pub(super) fn check(&self) -> Result<()> {
        let count = self.blobs.len() + self.trees.len() + self.directories.len();
        if count > MAX_REFERENCES {
            let text = format!("{count} references are more than {MAX_REFERENCES}");
            return Err(CasError::new(ErrorKind::NoSpace, text));
        }
        let long = self
            .trees
            .iter()
            .find(|output| output.tree.size() > MAX_TREE);
        long.map_or(Ok(()), |Output { tree, .. }| {
            let text = format!("the tree {tree} is longer than {MAX_TREE} bytes");
            Err(CasError::new(ErrorKind::NoSpace, text))
        })
    }
}

impl Cache {
    /// Leases all that is referred to; `false` if something is not there.
    ///
    /// A tree is leased before it is read, and its files after it, so that nothing can go
    /// between the check and the end of the lease.
    pub(super) async fn keep(&self, references: &References) -> Result<bool> {
        let mut count = Count(0);
        let trees = references.trees.iter().map(|output| output.tree);
        let named = references.blobs.iter().copied().chain(trees);
        let named: Vec<RemoteDigest> = named
            .chain(references.directories.iter().copied())
            .collect();
        if !count.admits(named.len()) || !self.lease_all(&named).await? {
            return Ok(false);
        }
        for Output {
            tree,
            has_directories,
        } in &references.trees
        {
            let Some((data, _room)) = self.tree(tree).await? else {
                return Ok(false);
            };
            let Ok(names) = Names::of_tree(tree.function(), data) else {
                tracing::debug!(%tree, "a tree does not decode");
                return Ok(false);
            };
            let directories = if *has_directories {
                &names.directories[..]
            } else {
                &[]
            };
            if !count.admits(names.files.len() + directories.len())
                || !self.lease_all(&names.files).await?
                || !self.lease_all(directories).await?
            {
                return Ok(false);
            }
        }
        let mut walk = Walk::new(self.clone(), &references.directories);
        loop {
            let visited = match walk.next().await {
                Err(error) if error.kind() == ErrorKind::NoSpace => return Ok(false),
                visited => visited?,
            };
            if visited.is_empty() {
                return Ok(true);
            }
            let mut files = Vec::new();
            for directory in visited {
                if directory.data.is_none() {
                    return Ok(false);
                }
                files.extend(directory.files);
            }
            if !count.admits(files.len()) || !self.lease_all(&files).await? {
                return Ok(false);
            }
        }
    }

    async fn lease_all(&self, digests: &[RemoteDigest]) -> Result<bool> {
        for step in digests.chunks(STEP) {
            if !self.missing(step, Lease::Default).await?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A tree that is leased, once there is room in memory for it; the room is its until
    /// the permit is dropped.
    async fn tree(&self, tree: &RemoteDigest) -> Result<Option<(Bytes, SemaphorePermit<'_>)>> {
        if tree.size() > MAX_TREE {
            return Ok(None);
        }
        // At most 64 Ki permits.
        let kib = (tree.size() / 1024) as u32 + 1;
        let closed = |_| CasError::new(ErrorKind::Closed, "the cache is shut down");
        let room = self.trees.acquire_many(kib).await.map_err(closed)?;
        let data = match self.open(tree, BlobRange::FULL).await {
            Ok(blob) => blob.bytes().await,
            Err(error) => Err(error),
        };
        Ok(present(data)?.map(|data| (data, room)))
    }
}

/// How many references were looked at.
struct Count(usize);

impl Count {
    fn admits(&mut self, more: usize) -> bool {
        self.0 += more;
        self.0 <= MAX_REFERENCES
    }
}

/// A digest that says something: some clients send an empty one for what isn't there.
fn said(digest: &Option<reapi::Digest>) -> Option<&reapi::Digest> {
    let says_nothing = |digest: &&reapi::Digest| digest.hash.is_empty() && digest.size_bytes == 0;
    digest.as_ref().filter(|digest| !says_nothing(digest))
}

fn invalid(text: String) -> CasError {
    CasError::new(ErrorKind::InvalidArgument, text)
}
