//! A blob that the server pulls.

use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use tokio::time::timeout;
use tracing::Instrument;
use zako_rdma::session::{ClientSession, Code, Expose, Status, TransferError};

use super::{Begun, Failure, Road};
use crate::Digest;
use crate::cas::{BlobWriter, CasError, ErrorKind, Result, Stored};
use crate::client::upload::disk_time;
use crate::client::{Client, span};
use crate::observe::trace::UntilDropped;

/// An upload under way over RDMA.
struct Upload {
    client: Client,
    digest: Digest,
    held: u64,
    session: u64,
    /// Gone once there is nothing more to say about it.
    expose: Option<Expose>,
    state: State,
    _trace: UntilDropped,
}

#[derive(Debug)]
enum State {
    Sending,
    /// The server has the blob already: what comes is not sent.
    Existing,
    Failed(CasError),
}

impl Client {
    /// Begins an upload at `offset`, of which the server is thought to hold as much.
    ///
    /// # Errors
    /// As of [`Road::begin`]; the server's that it has the blob, or holds less of it.
    pub(in crate::client) async fn expose(
        &self,
        road: &Road,
        digest: &Digest,
        offset: u64,
    ) -> Result<Box<dyn BlobWriter>, Failure> {
        let put = |session: ClientSession| async move { session.put(digest, offset).await };
        let trace = span::over_rdma("rdma put", digest, digest.size().saturating_sub(offset));
        let begun = road.begin(&self.0.pool, self.options(), digest, put);
        let begun = begun.instrument(trace.clone()).await;
        let begun = begun.map_err(|failure| match failure {
            Failure::Other(error) if error.kind() == ErrorKind::InvalidArgument => {
                let held = error.held().unwrap_or_default();
                Failure::Other(match offset > held {
                    true => CasError::not_held(*digest, offset, held),
                    false => error,
                })
            }
            failure => failure,
        });
        let Begun { transfer, session } = begun?;
        Ok(Box::new(Upload {
            client: self.clone(),
            digest: *digest,
            held: offset,
            session,
            expose: Some(transfer),
            state: State::Sending,
            _trace: UntilDropped(trace),
        }))
    }
}

impl Upload {
    fn error(&self, kind: ErrorKind, message: impl Into<String>) -> CasError {
        CasError::new(kind, message).with_digest(self.digest)
    }

    fn fail(&mut self, error: CasError) -> CasError {
        self.state = State::Failed(error.clone());
        error
    }

    fn idle(&self) -> Duration {
        self.client.options().idle_timeout
    }

    /// Gives as much of `data` as there is room for; how many bytes that were.
    async fn give(&mut self, data: &[u8]) -> Result<usize> {
        let idle = self.idle();
        let Some(expose) = &mut self.expose else {
            return Ok(data.len());
        };
        let refused = match timeout(idle, expose.room()).await {
            Ok(Ok(room)) => {
                let length = room.len().min(data.len());
                room[..length].copy_from_slice(&data[..length]);
                match expose.filled(length) {
                    Ok(()) => return Ok(length),
                    Err(error) => error,
                }
            }
            Ok(Err(error)) => error,
            Err(_) => {
                let text = format!("the server took nothing for {idle:?}");
                let error = self.error(ErrorKind::Timeout, text);
                return Err(self.fail(error));
            }
        };
        self.expose = None;
        let error = self.judge(&refused);
        if error.is_already_exists() {
            self.state = State::Existing;
            return Ok(data.len());
        }
        Err(self.fail(error))
    }

    /// Draws the consequences of the transfer's error.
    fn judge(&self, error: &TransferError) -> CasError {
        let failure = match &self.client.0.rdma {
            Some(road) => road.failed(self.session, error, &self.digest),
            None => super::status::of_transfer(error, &self.digest),
        };
        match failure {
            Failure::Road(error) => error,
            // Nothing else of an upload that was begun can be wrong.
            Failure::Other(error) if error.kind() == ErrorKind::InvalidArgument => {
                self.error(ErrorKind::Mismatch, error.message())
            }
            Failure::Other(error) => error,
        }
    }

    /// Makes the server drop what came.
    async fn drop_held(&mut self) -> Result<()> {
        if let Some(expose) = self.expose.take() {
            let status = Status::new(Code::InvalidArgument, "discarded");
            let _ = timeout(self.idle(), expose.give_up(status)).await;
        }
        // It may hold something from before, or of a session that failed.
        self.client.drop_held(&self.digest).await
    }
}

/// Interrupts an upload so that the server keeps what it was given.
async fn interrupt(mut expose: Expose) {
    if expose.drain().await.is_ok() {
        let _ = expose.give_up(Status::cancelled()).await;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let idle = self.idle();
        if let Some(expose) = self.expose.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(timeout(idle, interrupt(expose)));
        }
    }
}

#[async_trait]
impl BlobWriter for Upload {
    fn digest(&self) -> &Digest {
        &self.digest
    }

    fn held(&self) -> u64 {
        self.held
    }

    async fn write(&mut self, mut data: Bytes) -> Result<()> {
        if let State::Failed(error) = &self.state {
            return Err(error.clone());
        }
        if data.len() as u64 > self.digest.size() - self.held {
            let error = self.error(
                ErrorKind::Mismatch,
                "more bytes were given than the blob has",
            );
            return Err(self.fail(error));
        }
        while !data.is_empty() {
            let given = self.give(&data).await?;
            data.advance(given);
            self.held += given as u64;
            if self.expose.is_some() {
                self.client.0.roads.rdma.sent(given);
            }
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<Stored> {
        let (given, size) = (self.held, self.digest.size());
        if let State::Failed(error) = &self.state {
            return Err(error.clone());
        }
        if given < size {
            let text = format!("{given} of {size} bytes were given");
            let error = self.error(ErrorKind::Mismatch, text);
            if matches!(self.state, State::Sending) {
                let _ = self.drop_held().await;
            }
            return Err(error);
        }
        let Some(expose) = self.expose.take() else {
            return Ok(Stored::Existing);
        };
        // The server may have to bring all of it to a disk that is busy.
        let limit = self.idle() + disk_time(size);
        let error = match timeout(limit, expose.finish()).await {
            Ok(Ok(held)) if held == size => {
                if let Some(road) = &self.client.0.rdma {
                    road.succeeded(self.session);
                }
                self.client.0.roads.rdma.ended();
                return Ok(Stored::New);
            }
            Ok(Ok(held)) => {
                let text = format!("the server committed {held} of {size} bytes");
                return Err(self.error(ErrorKind::Internal, text));
            }
            Ok(Err(error)) => error,
            Err(_) => {
                let text = format!("the server did not answer an upload within {limit:?}");
                return Err(self.error(ErrorKind::Timeout, text));
            }
        };
        let error = self.judge(&error);
        match error.is_already_exists() {
            true => Ok(Stored::Existing),
            false => Err(error),
        }
    }

    async fn park(mut self: Box<Self>) -> Result<u64> {
        let Some(expose) = self.expose.take() else {
            return self.client.ask_held(&self.digest).await;
        };
        let _ = timeout(self.idle(), interrupt(expose)).await;
        self.client.parked(&self.digest, self.held).await
    }

    async fn discard(mut self: Box<Self>) -> Result<()> {
        match self.state {
            State::Existing => Ok(()),
            State::Sending | State::Failed(_) => self.drop_held().await,
        }
    }
}
