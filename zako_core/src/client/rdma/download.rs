//! A part of a blob on its way over RDMA.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use tracing::Instrument;
use zako_rdma::session::{ClientSession, Pull};

use super::{Begun, Failure, Road};
use crate::Digest;
use crate::cas::{CasError, ErrorKind, Result};
use crate::client::{Client, span};
use crate::observe::trace::UntilDropped;

/// A download under way over RDMA.
#[derive(Debug)]
pub(in crate::client) struct Pulling {
    pull: Pull,
    session: u64,
    _trace: UntilDropped,
}

impl Client {
    /// Asks for a part of a blob over RDMA.
    ///
    /// # Errors
    /// As of [`Road::begin`].
    pub(in crate::client) async fn pull(
        &self,
        road: &Road,
        digest: &Digest,
        range: Range<u64>,
    ) -> Result<Pulling, Failure> {
        let get = |session: ClientSession| {
            let range = range.clone();
            async move { session.get(digest, range).await }
        };
        let trace = span::over_rdma("rdma get", digest, range.end - range.start);
        let begun = road
            .begin(&self.0.pool, self.options(), digest, get)
            .instrument(trace.clone())
            .await?;
        let Begun { transfer, session } = begun;
        Ok(Pulling {
            pull: transfer,
            session,
            _trace: UntilDropped(trace),
        })
    }
}

impl Pulling {
    /// The next bytes, `None` at the proper end.
    pub(in crate::client) async fn next(
        &mut self,
        road: &Road,
        idle: Duration,
    ) -> Result<Option<Bytes>, Failure> {
        let digest = *self.pull.digest();
        match timeout(idle, self.pull.next()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(bytes))) => Ok(Some(bytes)),
            Ok(Some(Err(error))) => Err(road.failed(self.session, &error, &digest)),
            // Not for the card: it is watched by the session.
            Err(_) => {
                let text = format!("the server sent nothing for {idle:?}");
                let error = CasError::new(ErrorKind::Timeout, text);
                Err(Failure::Other(error.with_digest(digest)))
            }
        }
    }

    /// Says whether the bytes were those of the blob.
    pub(in crate::client) fn end(self, road: &Road, right: bool) {
        match right {
            true => road.succeeded(self.session),
            false => road.wrong_bytes(self.session),
        }
    }
}
