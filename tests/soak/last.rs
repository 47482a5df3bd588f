//! What must be true when all is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use zako_core::cas::{CasExt, Maintain};
use zako_core::client::{Client, ClientOptions};

use crate::blobs::{Content, Fate, Shared};
use crate::site::{End, Site};
use crate::worker::Worker;

/// How long leftovers may stay beyond their time.
const LATE: Duration = Duration::from_secs(120);

/// Checks all blobs, then the folder; gives what `zako verify` says.
pub(crate) async fn check(site: &Arc<Site>, shared: &[Shared], mut workers: Vec<Worker>) -> String {
    let moment = site.calm().await;
    let url = format!("http://{}", site.grpc()).parse().unwrap();
    let client = Client::connect(&url, ClientOptions::default())
        .await
        .unwrap();
    for worker in &mut workers {
        for own in &mut worker.own {
            let present = read_back(&client, &own.content).await;
            // A crash between a blob's commit and that of its other name leaves the blob.
            if worker.by_digest || own.fate != Fate::Absent {
                own.seen(site, moment, present);
            }
        }
    }
    for shared in shared {
        let present = read_back(&client, &shared.content).await;
        shared.seen(site, shared.is_stored(), present);
    }
    nothing_is_left(&client, site).await;
    drop((client, workers));
    let (ended, said) = (Arc::clone(site), Arc::clone(site));
    let end = move || ended.end(End::Term);
    tokio::task::spawn_blocking(end).await.unwrap();
    assert_eq!(
        said.said(),
        "",
        "{}: its servers had something to say",
        site.name
    );
    only_what_belongs_there(site);
    verify(site)
}

/// Whether a blob is there, which it must be as a whole.
async fn read_back(client: &Client, content: &Content) -> bool {
    match client.fetch_bytes(&content.digest).await {
        Ok(found) => {
            assert!(found == content.data, "wrong bytes of {}", content.digest);
            true
        }
        Err(error) if error.is_not_found() => false,
        Err(error) => panic!("{error:?}"),
    }
}

/// Uploads that nobody went on with are gone when their time is over.
async fn nothing_is_left(client: &Client, site: &Site) {
    let late = Instant::now() + site.partial_ttl + LATE;
    loop {
        client.collect_garbage().await.unwrap();
        let usage = client.usage().await.unwrap();
        assert_eq!(usage.quarantined_blobs, 0, "{}: {usage:?}", site.name);
        let files = std::fs::read_dir(site.data().join("partial")).unwrap();
        if usage.partial_bytes == 0 && files.count() == 0 {
            return;
        }
        assert!(Instant::now() < late, "{}: {usage:?}", site.name);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// A closed store's folder has no file of unknown use.
fn only_what_belongs_there(site: &Site) {
    let known = [
        "aliases",
        "large",
        "lock",
        "partial",
        "quarantine",
        "segments",
        "zako.store",
    ];
    let mut folders = vec![site.data()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let within = path.strip_prefix(site.data()).unwrap();
            let top = within.components().next().unwrap().as_os_str();
            let right = match top.to_str().unwrap() {
                "segments" => name == "segments" || name.ends_with(".seg"),
                "large" => name.len() <= 5 || name.len() > 64,
                "partial" | "quarantine" => path == site.data().join(top),
                top => known.contains(&top) && !name.ends_with(".new"),
            };
            assert!(right, "{}: {} is left", site.name, within.display());
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
}

/// The stored bytes are those of their digests.
fn verify(site: &Site) -> String {
    let said = site
        .command()
        .args(["verify", "--data", "data"])
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let errors = text(&said.stderr);
    assert!(said.status.success(), "{}: {errors}", site.name);
    text(&said.stdout)
}
