//! Which blobs are missing, of very many.

use zako_reapi::digest::{DigestFunction, RemoteDigest};
use zako_reapi::proto::reapi::batch_update_blobs_request::Request;
use zako_reapi::proto::reapi::{BatchUpdateBlobsRequest, FindMissingBlobsRequest};

use crate::Outcome;
use crate::calls;
use crate::process::Server;
use crate::report::Report;
use crate::run::Run;

/// The title of the table.
pub(crate) const TITLE: &str = "Remote Execution API: FindMissingBlobs, 200,000 a call, SHA-256";

/// Asked so often, one after the other.
const TIMES: usize = 5;

/// One round.
pub(crate) async fn round(run: &Run, report: &mut Report) -> Outcome<()> {
    let count = run.size(2000, 200_000);
    let store = run.new_folder()?;
    let server = Server::start(run, store.path(), &[])?;
    let channel = calls::connect(&server).await?;
    let mut client = calls::cas(&channel);
    let blobs: Vec<_> = (0..count as u64)
        .map(|at| bytes::Bytes::copy_from_slice(&at.to_le_bytes()))
        .collect();
    for blobs in blobs.chunks(50_000) {
        let entries = blobs.iter().map(|data| Request {
            digest: Some(DigestFunction::Sha256.digest(data).to_wire()),
            data: data.clone(),
            ..Request::default()
        });
        let request = BatchUpdateBlobsRequest {
            requests: entries.collect(),
            ..BatchUpdateBlobsRequest::default()
        };
        client.batch_update_blobs(request).await?;
    }
    let present = blobs.iter().map(|data| DigestFunction::Sha256.digest(data));
    let absent = (0..count as u64).map(|at| {
        let other = [at.to_le_bytes(), [0xff; 8]].concat();
        DigestFunction::Sha256.digest(&other)
    });
    let present: Vec<RemoteDigest> = present.collect();
    let absent: Vec<RemoteDigest> = absent.collect();
    for (row, digests, missing) in [
        ("all present", &present, 0),
        ("all missing", &absent, count),
    ] {
        let request = FindMissingBlobsRequest {
            blob_digests: digests.iter().map(|digest| digest.to_wire()).collect(),
            ..FindMissingBlobsRequest::default()
        };
        let requests: Vec<_> = (0..TIMES).map(|_| request.clone()).collect();
        let meter = server.meter()?;
        for request in requests {
            let response = client.find_missing_blobs(request).await?;
            if response.into_inner().missing_blob_digests.len() != missing {
                return Err("another number is missing".into());
            }
        }
        let (cost, asked) = (meter.end()?, (count * TIMES) as f64);
        let cells = [
            ("digests/s, millions", asked / cost.wall / 1e6),
            ("of the server's CPU, millions", asked / cost.server / 1e6),
            ("client CPU µs", cost.client / asked * 1e6),
            ("server's peak, MiB", cost.peak as f64 / calls::MIB),
        ];
        report.add(TITLE, row, &cells);
    }
    server.stop()
}
