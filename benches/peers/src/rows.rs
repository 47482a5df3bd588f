//! What is compared with what.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;

use crate::load::{Kind, Load};
use crate::report::Report;
use crate::run::Run;
use crate::servers::{Id, Servers};
use crate::worker::{How, Peer, Task, Took, Worker};
use crate::{Outcome, pages};

const GIB: f64 = (1u64 << 30) as f64;

/// A row of a table.
struct Row {
    name: &'static str,
    /// The server; a put is into a store of the worker's own.
    from: Option<Id>,
    peer: Peer,
    how: How,
    /// The row of Zako's that does the same work.
    same: Option<&'static str>,
}

/// What a row took.
#[derive(Clone, Copy)]
struct Cost {
    took: Took,
    server: Option<f64>,
}

/// One round.
pub(crate) fn round(run: &Run, load: &Load, servers: &Servers, report: &mut Report) -> Outcome<()> {
    let (get, put) = match load.kind {
        Kind::Large => ("Get, large blobs", "Put locally, large blobs"),
        Kind::Small => ("Get, small blobs", "Put locally, small blobs"),
    };
    table(run, load, servers, report, get, gets(load.kind))?;
    table(run, load, servers, report, put, puts(load.kind))
}

fn gets(kind: Kind) -> Vec<Row> {
    let row = |name, id, how, same| Row {
        name,
        from: Some(id),
        peer: match id {
            Id::Zako => Peer::Zako,
            Id::IrohBlobs => Peer::IrohBlobs,
            Id::NginxSendfile | Id::NginxNoSendfile => Peer::Nginx,
        },
        how,
        same,
    };
    let (plain, hashed) = ("Zako, not hashed", "Zako, hashed");
    let mut rows = vec![
        row(plain, Id::Zako, How::Get, None),
        row(
            "nginx, sendfile, not hashed",
            Id::NginxSendfile,
            How::Get,
            Some(plain),
        ),
        row(
            "nginx, no sendfile, not hashed",
            Id::NginxNoSendfile,
            How::Get,
            Some(plain),
        ),
        row(hashed, Id::Zako, How::GetHashed, None),
        row(
            "nginx, sendfile, hashed",
            Id::NginxSendfile,
            How::GetHashed,
            Some(hashed),
        ),
        row(
            "nginx, no sendfile, hashed",
            Id::NginxNoSendfile,
            How::GetHashed,
            Some(hashed),
        ),
        row(
            "iroh-blobs, verified",
            Id::IrohBlobs,
            How::GetHashed,
            Some(hashed),
        ),
    ];
    if kind == Kind::Small {
        let batch = "Zako, hashed, batched";
        rows.push(row(batch, Id::Zako, How::GetBatch, None));
        rows.push(row(
            "iroh-blobs, verified, one sequence",
            Id::IrohBlobs,
            How::GetBatch,
            Some(batch),
        ));
    }
    let later = "Zako, into a store, write-back";
    rows.extend([
        row(
            "Zako, into a store, durable",
            Id::Zako,
            How::GetStored,
            None,
        ),
        row(later, Id::Zako, How::GetStoredLater, None),
        row(
            "iroh-blobs, into a store",
            Id::IrohBlobs,
            How::GetStoredLater,
            Some(later),
        ),
    ]);
    rows
}

fn puts(kind: Kind) -> Vec<Row> {
    let row = |name, peer, how, same| Row {
        name,
        from: None,
        peer,
        how,
        same,
    };
    let (durable, later) = ("Zako, durable", "Zako, write-back");
    let mut rows = vec![
        row(durable, Peer::Zako, How::Put, None),
        row(
            "iroh-blobs, then syncfs",
            Peer::IrohBlobs,
            How::Put,
            Some(durable),
        ),
        row(later, Peer::Zako, How::PutLater, None),
        row("iroh-blobs", Peer::IrohBlobs, How::PutLater, Some(later)),
    ];
    if kind == Kind::Small {
        rows.push(row(
            "Zako, durable, batched",
            Peer::Zako,
            How::PutBatch,
            None,
        ));
        rows.push(row(
            "Zako, write-back, batched",
            Peer::Zako,
            How::PutBatchLater,
            None,
        ));
    }
    rows
}

fn table(
    run: &Run,
    load: &Load,
    servers: &Servers,
    report: &mut Report,
    title: &'static str,
    rows: Vec<Row>,
) -> Outcome<()> {
    let mut costs: HashMap<&str, Cost> = HashMap::new();
    for row in rows {
        let Some(cost) = measure(run, load, servers, &row)? else {
            continue;
        };
        let gib = load.bytes() as f64 / GIB;
        let mut cells = vec![match load.kind {
            Kind::Large => ("GB/s", load.bytes() as f64 / cost.took.wall / 1e9),
            Kind::Small => ("blobs/s", load.count as f64 / cost.took.wall),
        }];
        let each = 1e6 / load.count as f64;
        match (load.kind, cost.server) {
            (Kind::Large, Some(server)) => {
                cells.push(("server CPU-s/GiB", server / gib));
                cells.push(("client CPU-s/GiB", cost.took.cpu / gib));
            }
            (Kind::Large, None) => cells.push(("CPU-s/GiB", cost.took.cpu / gib)),
            (Kind::Small, Some(server)) => {
                cells.push(("server CPU µs", server * each));
                cells.push(("client CPU µs", cost.took.cpu * each));
            }
            (Kind::Small, None) => cells.push(("CPU µs", cost.took.cpu * each)),
        }
        if let Some(same) = row.same.and_then(|name| costs.get(name)) {
            cells.push(("rate: Zako ÷ it", cost.took.wall / same.took.wall));
            if let (Some(ours), Some(its)) = (same.server, cost.server) {
                cells.extend(ratio("server CPU: Zako ÷ it", ours, its));
            }
            let name = match cost.server {
                Some(_) => "client CPU: Zako ÷ it",
                None => "CPU: Zako ÷ it",
            };
            cells.extend(ratio(name, same.took.cpu, cost.took.cpu));
        }
        report.add(title, row.name, &cells);
        costs.insert(row.name, cost);
    }
    Ok(())
}

/// `None` where the kernel, which counts by hundredths of a second, counted nothing.
fn ratio(name: &'static str, ours: f64, its: f64) -> Option<(&'static str, f64)> {
    (its > 0.0).then(|| (name, ours / its))
}

/// Measures one row; `None` without its server.
fn measure(run: &Run, load: &Load, servers: &Servers, row: &Row) -> Outcome<Option<Cost>> {
    let address = match row.from {
        None => String::new(),
        Some(id) => match servers.address(id) {
            Some(address) => address,
            None => return Ok(None),
        },
    };
    let folder = run.new_folder()?;
    let list: PathBuf = servers.list.clone();
    let mut worker = Worker::start(
        row.peer,
        &Task {
            load: *load,
            how: row.how,
            address,
            list,
            folder: folder.path().to_owned(),
        },
    )?;
    if row.how.writes() {
        pages::take(run.folder(), load.bytes())?;
    }
    let before = row.from.map(|id| servers.cpu(id)).transpose()?;
    let took = worker.work()?;
    let after = row.from.map(|id| servers.cpu(id)).transpose()?;
    worker.end()?;
    // What was written must not burden the next row.
    drop(folder);
    rustix::fs::syncfs(File::open(run.folder())?)?;
    Ok(Some(Cost {
        took,
        server: after.zip(before).map(|(after, before)| after - before),
    }))
}
