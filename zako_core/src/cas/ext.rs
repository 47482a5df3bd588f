//! Conveniences over every store.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::io::{AsyncBufRead, AsyncRead};
use tokio_util::io::{ReaderStream, StreamReader};

use super::{Blob, Cas, CasError, ErrorKind, Lease, Result, Stored};
use crate::{BlobRange, Digest};

/// The size of the steps in which [`CasExt::store_reader`] reads, in bytes.
const READ_STEP: usize = 256 * 1024;

/// What can be done with every [`Cas`] by its methods alone.
#[allow(
    async_fn_in_trait,
    reason = "implemented here for every store, never elsewhere"
)]
pub trait CasExt: Cas {
    /// Whether a blob is present. Leases nothing.
    async fn contains(&self, digest: &Digest) -> Result<bool> {
        Ok(self
            .missing(std::slice::from_ref(digest), Lease::None)
            .await?
            .is_empty())
    }

    /// A blob whole, in memory.
    async fn fetch_bytes(&self, digest: &Digest) -> Result<Bytes> {
        match self.fetch(digest, BlobRange::FULL).await?.bytes().await {
            // The store can get it in another way: a client by another transport.
            Err(error) if error.kind() == ErrorKind::Corrupt && error.is_transient() => {
                self.fetch(digest, BlobRange::FULL).await?.bytes().await
            }
            outcome => outcome,
        }
    }

    /// A blob as a tokio reader.
    async fn reader(
        &self,
        digest: &Digest,
        range: BlobRange,
    ) -> Result<impl AsyncBufRead + Send + Unpin> {
        Ok(blob_reader(self.fetch(digest, range).await?))
    }

    /// Stores bytes under the digest that they have.
    async fn put_bytes(&self, data: impl Into<Bytes>) -> Result<(Digest, Stored)> {
        let data = data.into();
        let digest = zako_digest::hash::bytes(&data);
        let stored = self.put(&digest, data).await?;
        Ok((digest, stored))
    }

    /// Stores what `steps` give. Goes on where an earlier upload of the blob was
    /// interrupted: steps that are held already are skipped.
    ///
    /// # Errors
    /// Those of [`Cas::writer`] and of its writer; and the first error of `steps`,
    /// after which what was taken is kept for a resumption, as what is held is when
    /// the steps give less than that ([`ErrorKind::Mismatch`]).
    async fn store<S>(&self, digest: &Digest, steps: S) -> Result<Stored>
    where
        S: Stream<Item = Result<Bytes>> + Send,
    {
        let mut held = self.held(digest).await?;
        let mut writer = self.writer(digest, held).await;
        if held > 0 && matches!(&writer, Err(error) if error.kind() == ErrorKind::NotHeld) {
            // Another writer took what was held a moment ago, or it expired.
            held = 0;
            writer = self.writer(digest, held).await;
        }
        let mut writer = match writer {
            Ok(writer) => writer,
            Err(error) if error.is_already_exists() => return Ok(Stored::Existing),
            Err(error) => return Err(error),
        };
        let mut skip = held;
        futures::pin_mut!(steps);
        while let Some(step) = steps.next().await {
            let mut data = match step {
                Ok(data) => data,
                Err(error) => {
                    writer.park().await?;
                    return Err(error);
                }
            };
            let skipped = skip.min(data.len() as u64);
            skip -= skipped;
            // At most the step's length, which is a usize.
            let data = data.split_off(skipped as usize);
            if !data.is_empty() {
                writer.write(data).await?;
            }
        }
        if skip > 0 {
            // Committed so, what is held would be dropped.
            writer.park().await?;
            let text = format!("the steps end {skip} bytes before what is held already");
            return Err(CasError::new(ErrorKind::Mismatch, text).with_digest(*digest));
        }
        writer.commit().await
    }

    /// Stores what `reader` gives, as [`store`](Self::store) does.
    async fn store_reader<R>(&self, digest: &Digest, reader: R) -> Result<Stored>
    where
        R: AsyncRead + Send,
    {
        let steps = ReaderStream::with_capacity(reader, READ_STEP).map(|step| {
            step.map_err(|error| {
                CasError::new(ErrorKind::Io, "reading what is to be stored").with_source(error)
            })
        });
        self.store(digest, steps).await
    }
}

impl<C: Cas + ?Sized> CasExt for C {}

/// An opened blob as a tokio reader.
pub fn blob_reader(blob: Blob) -> impl AsyncBufRead + Send + Unpin {
    StreamReader::new(blob.map(|step| step.map_err(std::io::Error::other)))
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;
    use crate::store::MemoryStore;

    #[tokio::test]
    async fn steps_that_end_early_cost_nothing_of_what_is_held() {
        let store = MemoryStore::new(1 << 20);
        let data = Bytes::from(vec![7; 100_000]);
        let digest = zako_digest::hash::bytes(&data);
        let mut writer = store.writer(&digest, 0).await.unwrap();
        writer.write(data.slice(..60_000)).await.unwrap();
        assert_eq!(writer.park().await.unwrap(), 60_000);

        let few = stream::iter([Ok(data.slice(..10_000))]);
        let error = store.store(&digest, few).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert_eq!(store.held(&digest).await.unwrap(), 60_000);

        let all = stream::iter([Ok(data)]);
        assert_eq!(store.store(&digest, all).await.unwrap(), Stored::New);
    }
}
