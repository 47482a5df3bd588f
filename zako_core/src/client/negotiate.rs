//! Asking which blobs are missing.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use tokio::sync::Semaphore;
use zako_protobuf::cas::NegotiateBlobsRequest;
use zako_protobuf::cas::content_addressable_storage_client::ContentAddressableStorageClient;
use zako_protobuf::digest::Digest as ProtoDigest;

use super::dial::Http2;
use super::{Client, status, within};
use crate::cas::{CasError, ErrorKind, Result};
use crate::{Digest, Hash};

/// Digests in one message, of about 44 bytes each.
pub(super) const BATCH: usize = 8 * 1024;

/// Messages sent ahead of their answers.
const AHEAD: usize = 4;

impl Client {
    /// Those of `digests` that the server lacks, in order; it leases the others
    /// for its default time.
    pub(super) async fn negotiate_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>> {
        let digests: Arc<[Digest]> = digests.into();
        let mut progress = Progress::default();
        let mut backoff = self.backoff();
        while progress.answered < digests.len() {
            let before = progress.answered;
            let outcome = match self.0.pool.connection().await {
                Ok(connection) => {
                    let outcome = self
                        .negotiate(connection.http2(), &digests, &mut progress)
                        .await;
                    if let Err(error) = &outcome {
                        connection.judge(error);
                    }
                    outcome
                }
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                if progress.answered > before {
                    backoff.progressed();
                }
                backoff.pause(error).await?;
            }
        }
        Ok(progress.missing)
    }

    async fn negotiate(
        &self,
        http2: Http2,
        digests: &Arc<[Digest]>,
        progress: &mut Progress,
    ) -> Result<()> {
        let limit = self.options().call_timeout;
        let ahead = Arc::new(Semaphore::new(AHEAD));
        let requests = requests(digests.clone(), progress.answered, ahead.clone());
        let mut client = ContentAddressableStorageClient::new(http2);
        let mut answers = within(limit, async {
            let answers = client.negotiate_blobs(requests).await;
            Ok(answers
                .map_err(|status| status::from_status(&status))?
                .into_inner())
        })
        .await?;
        while progress.answered < digests.len() {
            let answer = within(limit, async {
                let answer = answers.message().await;
                answer.map_err(|status| status::from_status(&status))
            });
            let Some(answer) = answer.await? else {
                return Err(CasError::new(
                    ErrorKind::Unavailable,
                    "the server ended a negotiation before it had answered all of it",
                ));
            };
            ahead.add_permits(1);
            progress.take(digests, &answer.missing_blob_digests)?;
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Progress {
    /// Digests, from the front, for which the answer has come.
    answered: usize,
    missing: Vec<Digest>,
}

impl Progress {
    /// Takes the answer to the next batch.
    fn take(&mut self, digests: &[Digest], answer: &[ProtoDigest]) -> Result<()> {
        let end = digests.len().min(self.answered + BATCH);
        let batch = &digests[self.answered..end];
        if !answer.is_empty() {
            let absent = answer
                .iter()
                .map(Digest::try_from)
                .collect::<std::result::Result<HashSet<_>, _>>()
                .map_err(|error| CasError::new(ErrorKind::Internal, error.to_string()))?;
            let before = self.missing.len();
            self.missing
                .extend(batch.iter().filter(|digest| absent.contains(*digest)));
            // Each absent one is found, at least once.
            if self.missing.len() - before < absent.len() {
                self.missing.truncate(before);
                return Err(CasError::new(
                    ErrorKind::Internal,
                    "the server reports blobs missing that it was not asked for",
                ));
            }
        }
        self.answered = end;
        Ok(())
    }
}

/// The messages for all digests from `from` on, each when there is a permit.
fn requests(
    digests: Arc<[Digest]>,
    from: usize,
    ahead: Arc<Semaphore>,
) -> impl futures::Stream<Item = NegotiateBlobsRequest> + Send + 'static {
    stream::unfold(from, move |from| {
        let (digests, ahead) = (digests.clone(), ahead.clone());
        async move {
            if from >= digests.len() {
                return None;
            }
            ahead.acquire().await.ok()?.forget();
            let end = digests.len().min(from + BATCH);
            let blob_digests = proto_digests(&digests[from..end]);
            Some((NegotiateBlobsRequest { blob_digests }, end))
        }
    })
}

/// The messages of these digests, in one allocation for all hashes.
pub(super) fn proto_digests(digests: &[Digest]) -> Vec<ProtoDigest> {
    let mut hashes = Vec::with_capacity(digests.len() * Hash::LEN);
    for digest in digests {
        hashes.extend_from_slice(digest.hash().as_bytes());
    }
    let mut hashes = Bytes::from(hashes);
    digests
        .iter()
        .map(|digest| ProtoDigest {
            size_bytes: digest.size(),
            blake3: hashes.split_to(Hash::LEN),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(count: usize) -> Vec<Digest> {
        (0..count)
            .map(|n| zako_digest::hash::bytes(&n.to_le_bytes()))
            .collect()
    }

    #[test]
    fn digests_keep_their_messages() {
        let digests = some(5);
        let messages: Vec<ProtoDigest> = digests.iter().map(|digest| (*digest).into()).collect();
        assert_eq!(proto_digests(&digests), messages);
    }

    #[test]
    fn answers_are_taken_in_order_and_with_duplicates() {
        let mut digests = some(3);
        digests.push(digests[0]);
        let mut progress = Progress::default();
        let answer = proto_digests(&[digests[2], digests[0]]);
        progress.take(&digests, &answer).unwrap();
        assert_eq!(progress.missing, [digests[0], digests[2], digests[0]]);
        assert_eq!(progress.answered, 4);
    }

    #[test]
    fn an_answer_to_another_question_is_refused() {
        let digests = some(3);
        let mut progress = Progress::default();
        let answer = proto_digests(&some(4)[2..]);
        let error = progress.take(&digests, &answer).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(progress.missing.is_empty());
        let answer = [ProtoDigest::default()];
        assert!(progress.take(&digests, &answer).is_err());
    }
}
