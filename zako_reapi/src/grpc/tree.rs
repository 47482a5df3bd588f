//! The directories of a tree.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::{Stream, TryStreamExt, stream};
use prost::Message;
use tonic::Status;
use zako_core::access::Role;
use zako_core::server::{Call, Reply, bad_request, to_status};

use super::{Refused, request, rights};
use crate::cache::{Cache, Walk};
use crate::proto::reapi::GetTreeRequest;

/// The longest request: the name of an instance.
const MAX_REQUEST: usize = 64 * 1024;

/// A page ends here, in bytes, if it has a directory: well below the 4 MiB of which
/// clients take a message.
const PAGE_BYTES: usize = 1 << 20;

/// `GetTreeResponse` with the directories as they are stored.
#[derive(Clone, PartialEq, Message)]
struct Page {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    directories: Vec<Bytes>,
    #[prost(string, tag = "2")]
    next_page_token: String,
}

/// The pages that are still to be sent.
struct Pages {
    walk: Walk,
    /// Directories that the walk came to.
    ready: VecDeque<Bytes>,
    /// The directories of a page.
    size: usize,
    /// The directories before the next page.
    sent: u64,
    ended: bool,
}

/// Streams the directories below a root, and it, breadth first and each of them once.
/// The token of a page says how many directories came before the next: who lost the
/// stream goes on there, as the walk finds the same ones while they are leased.
pub(super) async fn answer(cache: &Cache, call: Call) -> Result<Reply, Refused> {
    let caller = call.caller();
    let (mut body, _) = call.open()?;
    let request: GetTreeRequest = body.message(MAX_REQUEST).await?;
    rights::check(&caller, &request.instance_name, Role::Read)?;
    let digest = request.root_digest.as_ref();
    let root = request::digest("root_digest", request.digest_function, digest)?;
    let size = match usize::try_from(request.page_size) {
        Ok(0) => usize::MAX,
        Ok(size) => size,
        Err(_) => return Err(bad_request("page_size", "page_size is negative").into()),
    };
    let skip = match &*request.page_token {
        "" => 0,
        token => token
            .parse()
            .map_err(|_| bad_request("page_token", "page_token is none that was given here"))?,
    };
    let mut walk = Walk::new(cache.clone(), &[root]);
    let first = walk.next().await.map_err(|error| to_status(&error))?;
    let ready: VecDeque<Bytes> = first.into_iter().filter_map(|dir| dir.data).collect();
    if ready.is_empty() {
        let text = format!("the directory {root} is not here, or is none");
        return Err(Status::not_found(text).into());
    }
    let mut pages = Pages {
        walk,
        ready,
        size,
        sent: 0,
        ended: false,
    };
    pages.skip(skip).await?;
    Ok(Reply::messages(pages.stream()))
}

impl Pages {
    async fn skip(&mut self, mut count: u64) -> Result<(), Status> {
        self.sent = count;
        while count > 0 && self.fill().await? {
            let some = self
                .ready
                .len()
                .min(usize::try_from(count).unwrap_or(usize::MAX));
            self.ready.drain(..some);
            count -= some as u64;
        }
        Ok(())
    }

    fn stream(self) -> impl Stream<Item = Result<Bytes, Status>> {
        stream::try_unfold(self, async |mut pages| {
            let page = pages.next().await?;
            Ok::<_, Status>(page.map(|page| (page, pages)))
        })
        .map_ok(|page| Bytes::from(page.encode_to_vec()))
    }

    async fn next(&mut self) -> Result<Option<Page>, Status> {
        if self.ended {
            return Ok(None);
        }
        let (mut page, mut bytes) = (Page::default(), 0);
        while page.directories.len() < self.size && self.fill().await? {
            bytes += self.ready.front().map_or(0, Bytes::len);
            if bytes > PAGE_BYTES && !page.directories.is_empty() {
                break;
            }
            page.directories.extend(self.ready.pop_front());
        }
        self.sent += page.directories.len() as u64;
        match self.fill().await? {
            true => page.next_page_token = self.sent.to_string(),
            false => self.ended = true,
        }
        Ok(Some(page))
    }

    /// Walks on until there is a directory that is ready; `false` at the end.
    async fn fill(&mut self) -> Result<bool, Status> {
        while self.ready.is_empty() {
            let visited = self.walk.next().await.map_err(|error| to_status(&error))?;
            if visited.is_empty() {
                return Ok(false);
            }
            self.ready
                .extend(visited.into_iter().filter_map(|dir| dir.data));
        }
        Ok(true)
    }
}
