//! A store that books what is newly stored on the account of the call that stores it.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use super::Allowance;
use crate::cas::{
    Blob, BlobStat, BlobWriter, Cas, CasError, ErrorKind, Lease, Result, StagedSize, StagedWriter,
    Staging, Stored, UploadKey, Witness,
};
use crate::{BlobRange, Digest};

/// A store in front of which stands the quota of the running call
/// ([`Allowance::current`]). Room is taken when an upload begins, and given back if
/// nothing new comes of it. Without such a call nothing is booked.
#[derive(Debug)]
pub struct Accounted<S>(S);

/// Room that is taken on an account until it is settled.
struct Booking {
    allowance: Option<Allowance>,
    bytes: u64,
}

struct BookedWriter {
    writer: Box<dyn BlobWriter>,
    booking: Booking,
}

struct BookedStage {
    writer: Box<dyn StagedWriter>,
    booking: Booking,
    /// The size was not told: room is taken as bytes come.
    grows: bool,
}

impl<S> Accounted<S> {
    /// In front of `store`.
    pub const fn new(store: S) -> Self {
        Self(store)
    }
}

impl Booking {
    fn none() -> Self {
        Self {
            allowance: Allowance::current(),
            bytes: 0,
        }
    }

    fn of(bytes: u64) -> Result<Self> {
        let mut booking = Self::none();
        booking.grow(bytes)?;
        Ok(booking)
    }

    fn grow(&mut self, bytes: u64) -> Result<()> {
        if let Some(allowance) = &self.allowance {
            allowance.account().reserve(bytes)?;
            self.bytes += bytes;
        }
        Ok(())
    }

    /// What is new stays booked.
    fn settle(mut self, stored: Stored) {
        if stored == Stored::New {
            self.bytes = 0;
        }
    }
}

impl Drop for Booking {
    fn drop(&mut self) {
        if let Some(allowance) = &self.allowance
            && self.bytes > 0
        {
            allowance.account().release(self.bytes);
        }
    }
}

impl<S: Cas> Accounted<S> {
    /// Room for a blob of this digest.
    ///
    /// # Errors
    /// There is none, and the store doesn't have the blob.
    async fn book(&self, digest: &Digest) -> Result<Booking> {
        match Booking::of(digest.size()) {
            Ok(booking) => Ok(booking),
            Err(error) => match self.0.missing(&[*digest], Lease::Default).await?.is_empty() {
                true => Ok(Booking::none()),
                false => Err(error.with_digest(*digest)),
            },
        }
    }
}

#[async_trait]
impl<S: Cas> Cas for Accounted<S> {
    async fn missing(&self, digests: &[Digest], lease: Lease) -> Result<Vec<Digest>> {
        self.0.missing(digests, lease).await
    }

    async fn stat(&self, digest: &Digest) -> Result<BlobStat> {
        self.0.stat(digest).await
    }

    async fn fetch(&self, digest: &Digest, range: BlobRange) -> Result<Blob> {
        self.0.fetch(digest, range).await
    }

    async fn put(&self, digest: &Digest, data: Bytes) -> Result<Stored> {
        let booking = self.book(digest).await?;
        let stored = self.0.put(digest, data).await?;
        booking.settle(stored);
        Ok(stored)
    }

    async fn writer(&self, digest: &Digest, offset: u64) -> Result<Box<dyn BlobWriter>> {
        let booking = self.book(digest).await?;
        let writer = self.0.writer(digest, offset).await?;
        Ok(Box::new(BookedWriter { writer, booking }))
    }

    async fn held(&self, digest: &Digest) -> Result<u64> {
        self.0.held(digest).await
    }

    async fn delete(&self, digest: &Digest) -> Result<bool> {
        self.0.delete(digest).await
    }

    async fn put_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<Stored>> {
        let mut bookings = Vec::with_capacity(blobs.len());
        for (digest, _) in &blobs {
            bookings.push(self.book(digest).await);
        }
        let taken = blobs.into_iter().zip(&bookings);
        let taken = taken.filter(|(_, booking)| booking.is_ok());
        let taken = taken.map(|(blob, _)| blob).collect();
        let stored = self.0.put_batch(taken).await;
        settle(bookings, stored, |stored| *stored)
    }

    async fn fetch_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes>> {
        self.0.fetch_batch(digests).await
    }
}

#[async_trait]
impl<S: Staging> Staging for Accounted<S> {
    async fn put_unnamed(&self, blobs: Vec<Bytes>) -> Vec<Result<(Digest, Stored)>> {
        let bookings: Vec<_> = blobs
            .iter()
            .map(|blob| Booking::of(blob.len() as u64))
            .collect();
        let taken = blobs.into_iter().zip(&bookings);
        let taken = taken.filter(|(_, booking)| booking.is_ok());
        let taken = taken.map(|(blob, _)| blob).collect();
        let stored = self.0.put_unnamed(taken).await;
        settle(bookings, stored, |(_, stored)| *stored)
    }

    async fn stage(
        &self,
        key: &UploadKey,
        size: StagedSize,
        offset: u64,
        witness: Box<dyn Witness>,
    ) -> Result<Box<dyn StagedWriter>> {
        let (booking, grows) = match size {
            StagedSize::Exactly(size) => (Booking::of(size)?, false),
            StagedSize::AtMost(_) => (Booking::of(offset)?, true),
        };
        let writer = self.0.stage(key, size, offset, witness).await?;
        Ok(Box::new(BookedStage {
            writer,
            booking,
            grows,
        }))
    }

    async fn staged(&self, key: &UploadKey) -> Result<u64> {
        self.0.staged(key).await
    }
}

/// The outcomes of all, of which only those with a booking went to the store.
fn settle<T>(
    bookings: Vec<Result<Booking>>,
    outcomes: Vec<Result<T>>,
    stored: impl Fn(&T) -> Stored,
) -> Vec<Result<T>> {
    let mut outcomes = outcomes.into_iter();
    let settled = bookings.into_iter().map(|booking| {
        let booking = booking?;
        let lacking = || CasError::new(ErrorKind::Internal, "the store gave too few outcomes");
        let outcome = outcomes.next().ok_or_else(lacking)??;
        booking.settle(stored(&outcome));
        Ok(outcome)
    });
    settled.collect()
}

#[async_trait]
impl BlobWriter for BookedWriter {
    fn digest(&self) -> &Digest {
        self.writer.digest()
    }

    fn held(&self) -> u64 {
        self.writer.held()
    }

    async fn write(&mut self, data: Bytes) -> Result<()> {
        self.writer.write(data).await
    }

    async fn commit(self: Box<Self>) -> Result<Stored> {
        let stored = self.writer.commit().await?;
        self.booking.settle(stored);
        Ok(stored)
    }

    async fn park(self: Box<Self>) -> Result<u64> {
        self.writer.park().await
    }

    async fn discard(self: Box<Self>) -> Result<()> {
        self.writer.discard().await
    }
}

#[async_trait]
impl StagedWriter for BookedStage {
    fn held(&self) -> u64 {
        self.writer.held()
    }

    async fn write(&mut self, data: Bytes) -> Result<()> {
        if self.grows {
            self.booking.grow(data.len() as u64)?;
        }
        self.writer.write(data).await
    }

    async fn commit(self: Box<Self>) -> Result<(Digest, Stored)> {
        let (digest, stored) = self.writer.commit().await?;
        self.booking.settle(stored);
        Ok((digest, stored))
    }

    async fn park(self: Box<Self>) -> Result<u64> {
        self.writer.park().await
    }

    async fn discard(self: Box<Self>) -> Result<()> {
        self.writer.discard().await
    }
}

impl fmt::Debug for Booking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Booking").field(&self.bytes).finish()
    }
}
