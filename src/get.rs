//! `zako get`: a blob or a tree out of the server.

use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use clap::Args;
use futures::StreamExt;
use serde::Serialize;
use tempfile::NamedTempFile;
use zako_core::cas::{Blob, Cas, CasError, ErrorKind};
use zako_core::client::Client;
use zako_core::tree::{TreeOptions, is_tree, restore_tree};
use zako_core::{BlobRange, Digest};

use crate::config::{ClientKeys, Layers};
use crate::connect::{connect_for_blobs, tree_options};
use crate::failure::Failure;
use crate::hash::is_stdin as is_stdout;
use crate::output::Output;
use crate::progress::Bar;
use crate::quantity::{bytes, plural, rate, took};
use crate::roads::{self, Moved, Road};

/// Get a blob, or restore a tree
///
/// Every byte of a whole blob is checked against the digest. A file or folder
/// appears under its name only when it is complete. With --json the object has the
/// road that the bytes took, "transport": rdma, grpc or rdma+grpc.
#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    /// The digest, as `zako put` prints it
    digest: Digest,

    /// Where to write: a file, which is replaced; for a tree a folder that is empty
    /// or not there yet; - (the default) for stdout
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,

    /// Get these bytes only: A..B (B not included), A.. or ..B; they can't be
    /// checked without the rest
    #[arg(long, value_name = "A..B")]
    range: Option<BlobRange>,

    /// Get the blob itself even if it is a tree
    #[arg(long)]
    raw: bool,

    #[command(flatten)]
    client: ClientKeys,
}

/// By so many bytes [`is_tree`] knows.
const TREE_BEGINNING: usize = 9;

#[derive(Serialize)]
struct Got<'a> {
    digest: String,
    path: &'a str,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<u64>,
    #[serde(flatten)]
    road: Road,
}

/// What is asked for.
struct Wanted {
    digest: Digest,
    /// `None`: standard output.
    path: Option<PathBuf>,
    range: Option<BlobRange>,
    may_be_tree: bool,
}

/// Where the bytes of a blob go.
enum Sink {
    Stdout,
    /// Becomes `path` when it is complete.
    New {
        file: NamedTempFile,
        path: PathBuf,
    },
    /// Something that is no regular file (a pipe, a device) is written to as it is.
    Existing {
        file: File,
        path: PathBuf,
    },
}

pub(crate) async fn run(
    args: GetArgs,
    layers: &Layers<'_>,
    output: &mut Output,
) -> Result<(), Failure> {
    let GetArgs {
        client,
        digest,
        output: to,
        range,
        raw,
    } = args;
    let client = connect_for_blobs(client, layers).await?;
    let wanted = Wanted {
        digest,
        path: to.filter(|path| !is_stdout(path)),
        range,
        may_be_tree: !raw && range.is_none(),
    };
    let outcome = get(&client, &wanted, output).await;
    roads::report(&client, layers).await;
    outcome
}

async fn get(client: &Client, wanted: &Wanted, output: &mut Output) -> Result<(), Failure> {
    let options = tree_options(client);
    let cas: Arc<dyn Cas> = Arc::new(client.clone());
    let (begun, start) = (client.roads(), Instant::now());
    let path = wanted.path.as_deref();
    let range = wanted.range.unwrap_or(BlobRange::FULL);
    let mut blob = cas.fetch(&wanted.digest, range).await?;
    let first = beginning(&mut blob).await?;

    if wanted.may_be_tree && first.as_deref().is_some_and(is_tree) {
        drop(blob);
        let Some(path) = path else {
            return Err(Failure::usage(format!("{} is a tree", wanted.digest))
                .advise("Restore it with -o PATH, or write the blob itself with --raw."));
        };
        return restore(client, wanted.digest, path, &options, output).await;
    }

    let mut sink = Sink::open(path)?;
    let bar = if path.is_none() && output.is_terminal() {
        Bar::hidden()
    } else {
        Bar::bytes("getting", output)
    };
    bar.total(blob.len());
    let outcome = copy(blob, first, &mut sink, &bar, output).await;
    bar.finish();
    let written = outcome?;
    sink.finish()?;
    let moved = Moved::since(client, &begun);
    if path.is_some() {
        Bar::note(
            output,
            format_args!(
                "{} in {}, {}{moved}",
                bytes(written),
                took(start.elapsed()),
                rate(written, start.elapsed()),
            ),
        );
    }
    match path {
        Some(path) => output.record(&Got {
            digest: wanted.digest.to_string(),
            path: &path.to_string_lossy(),
            bytes: written,
            files: None,
            road: moved.road(),
        }),
        None => Ok(()),
    }
}

/// The first bytes of a blob, enough to tell a tree; `None` of an empty one.
async fn beginning(blob: &mut Blob) -> Result<Option<Bytes>, CasError> {
    let Some(mut first) = blob.next().await.transpose()? else {
        return Ok(None);
    };
    while first.len() < TREE_BEGINNING
        && let Some(more) = blob.next().await.transpose()?
    {
        first = [first, more].concat().into();
    }
    Ok(Some(first))
}

async fn restore(
    client: &Client,
    digest: Digest,
    path: &Path,
    options: &TreeOptions,
    output: &mut Output,
) -> Result<(), Failure> {
    let bar = Bar::bytes("restoring", output);
    let (begun, start) = (client.roads(), Instant::now());
    let cas: Arc<dyn Cas> = Arc::new(client.clone());
    let outcome = restore_tree(&cas, digest, path, options, &bar).await;
    bar.finish();
    let report = outcome.map_err(|error| {
        let is_refusal = error.kind() == ErrorKind::InvalidArgument;
        let failure = Failure::from(error).context(format_args!("restoring {digest}"));
        if is_refusal {
            failure.advise(
                "Restore to a folder that is empty or not there yet; --raw gets the blob itself.",
            )
        } else {
            failure
        }
    })?;
    let moved = Moved::since(client, &begun);
    Bar::note(
        output,
        format_args!(
            "{}, {}, {} in {}, {}{moved}",
            plural(report.files, "file"),
            plural(report.folders, "folder"),
            bytes(report.file_bytes),
            took(start.elapsed()),
            rate(report.file_bytes, start.elapsed()),
        ),
    );
    output.record(&Got {
        digest: digest.to_string(),
        path: &path.to_string_lossy(),
        bytes: report.file_bytes,
        files: Some(report.files),
        road: moved.road(),
    })
}

async fn copy(
    mut blob: Blob,
    first: Option<Bytes>,
    sink: &mut Sink,
    bar: &Bar,
    output: &mut Output,
) -> Result<u64, Failure> {
    let mut written = 0;
    let mut next = first;
    while let Some(data) = next {
        sink.write(&data, output)?;
        written += data.len() as u64;
        bar.add(data.len() as u64);
        next = blob.next().await.transpose()?;
    }
    Ok(written)
}

impl Sink {
    fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Self::Stdout);
        };
        // A link is followed: what it points at is replaced, not the link.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        match fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => {
                return Err(Failure::usage(format!("{} is a folder", path.display()))
                    .advise("Name the file to write: -o FOLDER/FILE."));
            }
            Ok(meta) if !meta.is_file() => {
                let file = File::options()
                    .write(true)
                    .open(&path)
                    .map_err(|error| Failure::io("opening", &path, &error))?;
                return Ok(Self::Existing { file, path });
            }
            _ => {}
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let file = tempfile::Builder::new()
            .prefix(".zako-get-")
            // As for any new file; the umask takes its part.
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .tempfile_in(folder)
            .map_err(|error| Failure::io("creating a file in", folder, &error))?;
        Ok(Self::New { file, path })
    }

    fn write(&mut self, data: &[u8], output: &mut Output) -> Result<(), Failure> {
        match self {
            Self::Stdout => output.bytes(data),
            Self::New { file, path } => file
                .write_all(data)
                .map_err(|error| Failure::io("writing", path, &error)),
            Self::Existing { file, path } => file
                .write_all(data)
                .map_err(|error| Failure::io("writing", path, &error)),
        }
    }

    fn finish(self) -> Result<(), Failure> {
        match self {
            Self::Stdout | Self::Existing { .. } => Ok(()),
            Self::New { file, path } => file
                .persist(&path)
                .map(drop)
                .map_err(|error| Failure::io("creating", &path, &error.error)),
        }
    }
}

impl fmt::Display for Got<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {}", self.digest, self.path)
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use zako_core::tree::Directory;

    use super::*;

    #[tokio::test]
    async fn a_tree_in_tiny_steps_is_one() {
        let tree = Directory::default().encode();
        let digest = zako_digest::hash::bytes(&tree);
        let steps: Vec<_> = tree.chunks(1).map(Bytes::copy_from_slice).collect();
        let steps = stream::iter(steps.into_iter().map(Ok));
        let mut blob = Blob::from_stream(digest, 0..digest.size(), steps);
        let first = beginning(&mut blob).await.unwrap().unwrap();
        assert!(is_tree(&first));
        let short = Bytes::from_static(b"abc");
        let mut blob = Blob::from_bytes(zako_digest::hash::bytes(&short), 0..3, short.clone());
        assert_eq!(beginning(&mut blob).await.unwrap(), Some(short));
    }
}
