//! iroh-blobs, as its documentation tells to use it, with its default options, but
//! for what loopback does not need: no relays, no look-up of addresses.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;

use bytes::Bytes;
use iroh::endpoint::{Connection, presets};
use iroh::protocol::Router;
use iroh::{Endpoint, EndpointAddr, RelayMode};
use iroh_blobs::get::fsm::{self, ConnectedNext, EndBlobNext};
use iroh_blobs::hashseq::HashSeq;
use iroh_blobs::protocol::GetRequest;
use iroh_blobs::store::fs::FsStore;
use iroh_blobs::{ALPN, BlobsProtocol, Hash, HashAndFormat};
use zako_core::Digest;

use crate::Outcome;
use crate::load::{Kind, read_list};
use crate::worker::{Cue, How, Task, each};

/// The first argument of the process that provides.
pub(crate) const ROLE: &str = "--iroh-provider";

/// The names of the blobs, in the folder of a provider's store.
pub(crate) const LIST: &str = "list";

/// Provides what a store has until its stdin ends; prints its address, and the hash
/// of a sequence of all blobs.
pub(crate) async fn provide(folder: &Path) -> Outcome<()> {
    let store = FsStore::load(folder).await?;
    let list = read_list(&folder.join(LIST))?;
    let sequence: HashSeq = list.iter().map(hash).collect();
    let sequence = store.add_bytes(sequence.into_inner()).await?.hash;
    let endpoint = endpoint().await?;
    let address = endpoint.bound_sockets();
    let address = address.first().ok_or("the provider has no address")?;
    let blobs = BlobsProtocol::new(&store, None);
    println!("{} {address} {sequence}", endpoint.id());
    let router = Router::builder(endpoint).accept(ALPN, blobs).spawn();
    let end = || std::io::read_to_string(std::io::stdin());
    tokio::task::spawn_blocking(end).await??;
    router.shutdown().await?;
    Ok(())
}

pub(crate) async fn get(task: Task, cue: Cue) -> Outcome<()> {
    let [id, address, sequence] = task.address.split(' ').collect::<Vec<_>>()[..] else {
        return Err(format!("{:?} is no provider", task.address).into());
    };
    let address = EndpointAddr::new(id.parse()?).with_ip_addr(address.parse()?);
    let sequence: Hash = sequence.parse()?;
    let endpoint = endpoint().await?;
    let connection = endpoint.connect(address, ALPN).await?;
    let hashes: Vec<Hash> = read_list(&task.list)?.iter().map(hash).collect();
    let store = match task.how {
        How::GetStoredLater => Some(FsStore::load(&task.folder).await?),
        _ => None,
    };
    let running = cue.wait()?;
    match (&store, task.how, task.load.kind) {
        (Some(store), _, Kind::Small) => {
            let all = HashAndFormat::hash_seq(sequence);
            let got = store.remote().fetch(connection.clone(), all).complete();
            got.await?;
            store.sync_db().await?;
        }
        (Some(store), _, Kind::Large) => {
            each(hashes, task.load.at_once(), |hash| {
                let remote = store.remote().clone();
                let connection = connection.clone();
                async move {
                    remote.fetch(connection, hash).complete().await?;
                    Ok(())
                }
            })
            .await?;
            store.sync_db().await?;
        }
        (None, How::GetBatch, _) => drain_sequence(connection.clone(), sequence).await?,
        (None, How::GetHashed, _) => {
            each(hashes, task.load.at_once(), |hash| {
                drain(connection.clone(), hash)
            })
            .await?;
        }
        (None, how, _) => return Err(format!("iroh-blobs has no {how:?}").into()),
    }
    running.end()?;
    if let Some(store) = store {
        store.shutdown().await?;
    }
    endpoint.close().await;
    Ok(())
}

pub(crate) async fn put(task: Task, cue: Cue) -> Outcome<()> {
    let store = FsStore::load(&task.folder).await?;
    let blobs = task.load.blobs();
    let disk = File::open(&task.folder)?;
    let running = cue.wait()?;
    each(
        blobs,
        task.load.at_once(),
        |(digest, data): (Digest, Bytes)| {
            let store = store.clone();
            async move {
                let tag = store.add_bytes(data).temp_tag().await?;
                match tag.hash() == hash(&digest) {
                    true => Ok(()),
                    false => Err("iroh-blobs has another hash".into()),
                }
            }
        },
    )
    .await?;
    store.sync_db().await?;
    if task.how == How::Put {
        // It never syncs the files of a whole blob, so all of the disk is.
        rustix::fs::syncfs(&disk)?;
    }
    running.end()?;
    store.shutdown().await?;
    Ok(())
}

async fn endpoint() -> Outcome<Endpoint> {
    Ok(Endpoint::builder(presets::Minimal)
        .clear_ip_transports()
        .bind_addr((Ipv4Addr::LOCALHOST, 0))?
        .relay_mode(RelayMode::Disabled)
        .bind()
        .await?)
}

/// Gets a blob and drops it; what comes is verified as it does.
async fn drain(connection: Connection, hash: Hash) -> Outcome<()> {
    let request = fsm::start(connection, GetRequest::blob(hash), Default::default());
    let ConnectedNext::StartRoot(root) = request.next().await?.next().await? else {
        return Err("the provider sent no blob".into());
    };
    match root.next().drain().await?.next() {
        EndBlobNext::Closing(closing) => closing.next().await?,
        EndBlobNext::MoreChildren(_) => return Err("the provider sends too much".into()),
    };
    Ok(())
}

/// Gets a sequence of blobs by one request and drops them.
async fn drain_sequence(connection: Connection, hash: Hash) -> Outcome<()> {
    let request = fsm::start(connection, GetRequest::all(hash), Default::default());
    let ConnectedNext::StartRoot(root) = request.next().await?.next().await? else {
        return Err("the provider sent no sequence".into());
    };
    let (mut end, hashes) = root.next().concatenate_into_vec().await?;
    let hashes = HashSeq::new(hashes.into()).ok_or("that is no sequence")?;
    let mut hashes = hashes.iter();
    let closing = loop {
        let child = match end.next() {
            EndBlobNext::MoreChildren(child) => child,
            EndBlobNext::Closing(closing) => break closing,
        };
        match hashes.next() {
            Some(hash) => end = child.next(hash).drain().await?,
            None => break child.finish(),
        }
    };
    closing.next().await?;
    match hashes.next() {
        Some(_) => Err("the provider sent too little".into()),
        None => Ok(()),
    }
}

fn hash(digest: &Digest) -> Hash {
    Hash::from_bytes(*digest.hash().as_bytes())
}
