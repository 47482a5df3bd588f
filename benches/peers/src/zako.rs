//! Zako: its client over the wire, its local store for puts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use zako_core::cas::{Cas, CasExt};
use zako_core::client::{Client, ClientOptions};
use zako_core::store::{Durability, LocalStore, StoreOptions};
use zako_core::{BlobRange, Digest};

use crate::Outcome;
use crate::load::{Kind, read_list};
use crate::worker::{Cue, How, Task, each};

/// Blobs of one call when many are put in batches.
const BATCH: usize = 2_000;

pub(crate) async fn get(task: Task, cue: Cue) -> Outcome<()> {
    let mut options = ClientOptions::default();
    // What is stored is checked by the store.
    options.verify = matches!(task.how, How::GetHashed | How::GetBatch);
    let client = Client::connect(&task.address.parse()?, options).await?;
    let digests = read_list(&task.list)?;
    let at_once = task.load.at_once();
    let store = match task.how {
        How::GetStored | How::GetStoredLater => Some(open(&task).await?),
        _ => None,
    };
    let running = cue.wait()?;
    match (task.how, task.load.kind) {
        (How::GetBatch, _) => {
            for blob in client.fetch_batch(&digests).await {
                blob?;
            }
        }
        (How::GetStored | How::GetStoredLater, Kind::Small) => {
            let store = store.clone().ok_or("no store")?;
            let batches = digests.chunks(BATCH).map(<[Digest]>::to_vec).collect();
            each(batches, 2, |batch: Vec<Digest>| {
                let (client, store) = (client.clone(), Arc::clone(&store));
                async move {
                    let came = client.fetch_batch(&batch).await;
                    let mut blobs = Vec::with_capacity(batch.len());
                    for (digest, data) in batch.into_iter().zip(came) {
                        blobs.push((digest, data?));
                    }
                    put_all(&store, blobs).await
                }
            })
            .await?;
        }
        (How::GetStored | How::GetStoredLater, Kind::Large) => {
            let store = store.clone().ok_or("no store")?;
            each(digests, at_once, |digest| {
                let (client, store) = (client.clone(), Arc::clone(&store));
                async move {
                    let blob = client.fetch(&digest, BlobRange::FULL).await?;
                    store.store(&digest, blob).await?;
                    Ok(())
                }
            })
            .await?;
        }
        (_, Kind::Small) => {
            each(digests, at_once, |digest| {
                let client = client.clone();
                async move {
                    client.fetch_bytes(&digest).await?;
                    Ok(())
                }
            })
            .await?;
        }
        (_, Kind::Large) => {
            each(digests, at_once, |digest| {
                let client = client.clone();
                async move {
                    let mut blob = client.fetch(&digest, BlobRange::FULL).await?;
                    let mut came = 0;
                    while let Some(step) = blob.next().await {
                        came += step?.len() as u64;
                    }
                    match came == digest.size() {
                        true => Ok(()),
                        false => Err("a blob came short".into()),
                    }
                }
            })
            .await?;
        }
    }
    running.end()?;
    match store {
        Some(store) => Ok(store.close().await?),
        None => Ok(()),
    }
}

pub(crate) async fn put(task: Task, cue: Cue) -> Outcome<()> {
    let store = open(&task).await?;
    let blobs = task.load.blobs();
    let running = cue.wait()?;
    match task.how {
        How::PutBatch | How::PutBatchLater => {
            let batches = blobs.chunks(BATCH).map(<[_]>::to_vec).collect();
            each(batches, 2, |batch: Vec<(Digest, Bytes)>| {
                let store = Arc::clone(&store);
                async move { put_all(&store, batch).await }
            })
            .await?;
        }
        _ => {
            each(blobs, task.load.at_once(), |(digest, data)| {
                let store = Arc::clone(&store);
                async move {
                    store.put(&digest, data).await?;
                    Ok(())
                }
            })
            .await?;
        }
    }
    running.end()?;
    Ok(store.close().await?)
}

async fn open(task: &Task) -> Outcome<Arc<LocalStore>> {
    let mut options = StoreOptions::default();
    options.durability = match task.how {
        How::GetStoredLater | How::PutLater | How::PutBatchLater => {
            Durability::Interval(Duration::from_secs(1))
        }
        _ => Durability::Immediate,
    };
    Ok(Arc::new(LocalStore::open(&task.folder, options).await?))
}

async fn put_all(store: &LocalStore, blobs: Vec<(Digest, Bytes)>) -> Outcome<()> {
    for outcome in store.put_batch(blobs).await {
        outcome?;
    }
    Ok(())
}
