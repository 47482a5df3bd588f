//! `zako demo`: a real folder there and back.

mod compare;
mod folder;
mod story;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use zako_core::Digest;
use zako_core::cas::{Cas, Result as CasResult};
use zako_core::client::{Client, ClientOptions, ServerUrl};
use zako_core::server::{ListenAddr, Server, ServerOptions};
use zako_core::store::{LocalStore, StoreOptions};
use zako_core::tree::{TreeOptions, put_tree, restore_tree};

use self::folder::Contents;
use self::story::{Compared, Finale, Got, Opening, Put, Source};
use crate::connect::tree_options;
use crate::disk;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::progress::Bar;

/// Put a folder through a server and back, and tell how it went
///
/// Starts a server on a free port over a temporary store, puts the folder twice,
/// gets it back, compares every file, and prints what was sent, what was saved,
/// and how fast. Nothing is left behind.
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// The folder [default: one of the Rust toolchain, else the current one]
    path: Option<PathBuf>,

    /// Where the temporary store and the copy go [default: the system's folder for
    /// temporary files]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

/// A server in this process.
struct Embedded {
    store: LocalStore,
    address: ListenAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<CasResult<()>>,
}

pub(crate) async fn run(args: DemoArgs, output: &mut Output) -> Result<(), Failure> {
    let base = args.scratch.unwrap_or_else(std::env::temp_dir);
    let scratch = tempfile::Builder::new()
        .prefix("zako-demo-")
        .tempdir_in(&base)
        .map_err(|error| Failure::io("creating a folder in", &base, &error))?;
    let (folder, contents) = choose(args.path, scratch.path())?;
    check_room(&base, &contents)?;

    let embedded = Embedded::start(&scratch.path().join("store")).await?;
    output.record(&Opening {
        source: Source::new(&folder, &contents),
        server: embedded.address.to_string(),
    })?;
    output.flush()?;
    let outcome = there_and_back(&embedded, &folder, &scratch.path().join("copy"), output).await;
    let ended = embedded.end().await;
    let finale = outcome?;
    ended?;
    output.record(&finale)?;
    if finale.identical {
        Ok(())
    } else {
        Err(
            Failure::new(Exit::Corrupt, "the copy differs from the folder").advise(
                "Did something write to the folder meanwhile? If not, this is a bug of zako.",
            ),
        )
    }
}

async fn there_and_back(
    embedded: &Embedded,
    folder: &Path,
    copy: &Path,
    output: &mut Output,
) -> Result<Finale, Failure> {
    let client = embedded.client().await?;
    let options = tree_options(&client);
    let cas: Arc<dyn Cas> = Arc::new(client);

    let (_, first) = put("put", &cas, folder, &options, output).await?;
    let (digest, second) = put("put again", &cas, folder, &options, output).await?;

    let bar = Bar::bytes("get", output);
    let start = Instant::now();
    let outcome = restore_tree(&cas, digest, copy, &options, &bar).await;
    bar.finish();
    let report = outcome.map_err(|error| Failure::from(error).context("get"))?;
    let got = Got::new(&report, start.elapsed());
    output.record(&got)?;
    output.flush()?;

    let start = Instant::now();
    let (left, right) = (folder.to_owned(), copy.to_owned());
    let difference = tokio::task::spawn_blocking(move || compare::differing(&left, &right))
        .await
        .unwrap_or_else(|error| Err(error.into()))
        .map_err(|error| Failure::io("comparing with", copy, &error))?;
    let compared = Compared::new(difference, start.elapsed());
    output.record(&compared)?;
    Ok(Finale::new(digest, [first, second], got, &compared))
}

async fn put(
    title: &'static str,
    cas: &Arc<dyn Cas>,
    folder: &Path,
    options: &TreeOptions,
    output: &mut Output,
) -> Result<(Digest, Put), Failure> {
    let bar = Bar::bytes(title, output);
    let start = Instant::now();
    let outcome = put_tree(cas, folder, options, &bar).await;
    bar.finish();
    let report = outcome.map_err(|error| Failure::from(error).context(title))?;
    let put = Put::new(title, &report, start.elapsed());
    output.record(&put)?;
    output.flush()?;
    Ok((report.digest, put))
}

fn choose(path: Option<PathBuf>, scratch: &Path) -> Result<(PathBuf, Contents), Failure> {
    let Some(path) = path else {
        return folder::choose(scratch);
    };
    if let Err(error) = std::fs::read_dir(&path) {
        return Err(Failure::io("reading", &path, &error).advise("Name a folder."));
    }
    let contents = folder::contents(&path, &Contents::ANY).ok_or_else(|| {
        Failure::new(
            Exit::Failed,
            format!("something under {} can't be read", path.display()),
        )
        .advise("Take a folder that is all yours.")
    })?;
    Ok((path, contents))
}

/// The store and the copy each take about as much as the folder.
fn check_room(base: &Path, contents: &Contents) -> Result<(), Failure> {
    let Ok(disk) = disk::of(base) else {
        return Ok(());
    };
    if disk.free / 3 >= contents.bytes {
        return Ok(());
    }
    let failure = Failure::new(
        Exit::NoSpace,
        format!(
            "{} has too little room for two copies of the folder",
            base.display()
        ),
    );
    Err(failure.advise("Name a roomier folder with --scratch DIR, or a smaller folder to put."))
}

impl Embedded {
    async fn start(folder: &Path) -> Result<Self, Failure> {
        let store = LocalStore::open(folder, StoreOptions::default()).await?;
        let listen = ListenAddr::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let server = Server::new(Arc::new(store.clone()), ServerOptions::default())
            .bind(&listen)
            .await?;
        let address = server.local_addr().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(server.serve(async {
            // Ends when the sender is dropped, too.
            let _ = stopped.await;
        }));
        Ok(Self {
            store,
            address,
            stop,
            serving,
        })
    }

    async fn client(&self) -> Result<Client, Failure> {
        let url: ServerUrl = self.address.to_string().parse()?;
        Ok(Client::connect(&url, ClientOptions::default()).await?)
    }

    async fn end(self) -> Result<(), Failure> {
        let _ = self.stop.send(());
        self.serving
            .await
            .map_err(|error| Failure::new(Exit::Failed, format!("the server broke: {error}")))??;
        Ok(self.store.close().await?)
    }
}
