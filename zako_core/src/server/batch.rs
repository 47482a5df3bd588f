//! `zako.v1.batch.Batch`: many small blobs in one call.

use std::sync::Arc;

use tonic::{Code, Request, Response, Status};
use zako_protobuf::batch::batch_server::Batch;
use zako_protobuf::batch::{
    BatchDownloadRequest, BatchDownloadResponse, BatchUploadRequest, BatchUploadResponse,
    DownloadedBlob, Outcome,
};

use super::connection::Shared;
use super::resource::{digests, some_digest};
use super::status::{bad_request, code};
use crate::Digest;
use crate::cas::{CasError, Stored};

/// What the sizes of a call's blobs may add up to, in bytes.
const MAX_TOTAL: u64 = 4 * 1024 * 1024;

pub(super) struct BatchService(Arc<Shared>);

impl BatchService {
    /// The longest request in bytes: the blobs and their digests.
    pub(super) const MAX_MESSAGE: usize = 6 * 1024 * 1024;

    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }
}

#[tonic::async_trait]
impl Batch for BatchService {
    async fn batch_upload(
        &self,
        request: Request<BatchUploadRequest>,
    ) -> Result<Response<BatchUploadResponse>, Status> {
        let request = request.into_inner();
        let mut blobs = Vec::with_capacity(request.blobs.len());
        for blob in request.blobs {
            let digest = some_digest("blobs.digest", blob.digest.as_ref())?;
            blobs.push((digest, blob.data));
        }
        // By what came: a wrong size in a digest is that blob's own failure.
        within(blobs.iter().map(|(_, data)| data.len() as u64))?;
        let named: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
        let stored = self.0.cas.put_batch(blobs).await;
        let outcomes = named
            .iter()
            .zip(stored)
            .map(|(digest, stored)| match stored {
                Ok(Stored::New) => outcome(digest, Code::Ok, ""),
                Ok(Stored::Existing) => outcome(digest, Code::AlreadyExists, ""),
                Err(error) => failure(digest, &error),
            })
            .collect();
        Ok(Response::new(BatchUploadResponse { outcomes }))
    }

    async fn batch_download(
        &self,
        request: Request<BatchDownloadRequest>,
    ) -> Result<Response<BatchDownloadResponse>, Status> {
        let asked = digests("digests", &request.into_inner().digests)?;
        // Before anything is read: nothing large is fetched to be refused.
        within(asked.iter().map(Digest::size))?;
        let fetched = self.0.cas.fetch_batch(&asked).await;
        let blobs = asked
            .iter()
            .zip(fetched)
            .map(|(digest, fetched)| {
                let (outcome, data) = match fetched {
                    Ok(data) => (outcome(digest, Code::Ok, ""), data),
                    Err(error) => (failure(digest, &error), Default::default()),
                };
                DownloadedBlob {
                    outcome: Some(outcome),
                    data,
                }
            })
            .collect();
        Ok(Response::new(BatchDownloadResponse { blobs }))
    }
}

fn within(sizes: impl Iterator<Item = u64>) -> Result<(), Status> {
    let mut total = 0u64;
    for size in sizes {
        total = total.saturating_add(size);
        if total > MAX_TOTAL {
            return Err(bad_request(
                "",
                format!("the sizes of a batch's blobs may add up to {MAX_TOTAL} bytes"),
            ));
        }
    }
    Ok(())
}

fn failure(digest: &Digest, error: &CasError) -> Outcome {
    outcome(digest, code(error.kind()), error.message())
}

fn outcome(digest: &Digest, code: Code, message: &str) -> Outcome {
    Outcome {
        digest: Some((*digest).into()),
        code: code as i32,
        message: message.to_owned(),
    }
}
