//! What many large uploads at once take of the server's memory.

use bytes::Bytes;
use zako_reapi::digest::{DigestFunction, RemoteDigest};

use crate::Outcome;
use crate::blobs::noise;
use crate::calls::{self, GIB, MIB};
use crate::process::Server;
use crate::report::Report;
use crate::run::Run;

/// The title of the table.
pub(crate) const TITLE: &str = "Remote Execution API: many large uploads at once";

/// They are broken off: all of them would be 64 GiB.
pub(crate) const ROW: &str = "64 of 1 GiB, SHA-256, each broken off at 32 MiB";

const UPLOADS: usize = 64;

/// Connections that they share.
const CONNECTIONS: usize = 4;

/// One round.
pub(crate) async fn round(run: &Run, report: &mut Report) -> Outcome<()> {
    let each = run.size(2, 32);
    let bytes = (UPLOADS * each) << 20;
    let store = run.new_folder()?;
    run.take_pages(bytes as u64)?;
    let server = Server::start(run, store.path(), &[])?;
    let mut channels = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        channels.push(calls::connect(&server).await?);
    }
    let data = Bytes::from(noise(5, 1 << 20));
    let meter = server.meter()?;
    let uploads = (0..UPLOADS).map(|at| {
        let hex = DigestFunction::Sha256.digest(&[at as u8]).hex();
        let digest = RemoteDigest::parse(Some(DigestFunction::Sha256), &hex, 1 << 30);
        let (channel, data) = (channels[at % CONNECTIONS].clone(), data.clone());
        tokio::spawn(async move {
            let pieces = (0..each).map(move |_| data.clone());
            let writes = calls::writes(&digest?, pieces, false);
            let response = calls::streams(&channel).write(writes).await?;
            match response.into_inner().committed_size as usize == each << 20 {
                true => Outcome::Ok(()),
                false => Err("not all that was sent is held".into()),
            }
        })
    });
    for upload in uploads.collect::<Vec<_>>() {
        upload.await??;
    }
    let cost = meter.end()?;
    let cells = [
        ("GB/s", bytes as f64 / cost.wall / 1e9),
        ("server CPU-s/GiB", cost.server / (bytes as f64 / GIB)),
        ("server's peak, MiB", cost.peak as f64 / MIB),
    ];
    report.add(TITLE, ROW, &cells);
    server.stop()
}
