//! The server's process.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;
use zako_core::client::ServerUrl;
use zako_core::server::{Server as Serving, ServerOptions};
use zako_core::store::{LocalStore, StoreOptions};
use zako_core::tls::{TlsAcceptor, TlsClientOptions, TlsServerOptions};

use crate::Outcome;

/// The role of the process that serves.
pub(crate) const SERVE: &str = "--serve";

/// A process that serves a store; killed when dropped.
pub(crate) struct Server {
    child: Child,
    _stdout: BufReader<ChildStdout>,
    folder: TempDir,
    pub(crate) url: ServerUrl,
}

impl Server {
    pub(crate) fn start(tls: bool) -> Outcome<Self> {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        std::fs::write(folder.path().join("cert.pem"), made.cert.pem())?;
        std::fs::write(
            folder.path().join("key.pem"),
            made.signing_key.serialize_pem(),
        )?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg(SERVE)
            .arg(folder.path())
            .arg(tls.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("the server has no stdout")?;
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let scheme = if tls { "https" } else { "http" };
        Ok(Self {
            url: format!("{scheme}://{}", line.trim_end()).parse()?,
            child,
            _stdout: stdout,
            folder,
        })
    }

    pub(crate) fn trusting(&self) -> TlsClientOptions {
        let mut options = TlsClientOptions::default();
        options.ca = std::fs::read(self.folder.path().join("cert.pem")).ok();
        options
    }

    /// Its seconds of CPU so far.
    pub(crate) fn cpu(&self) -> Outcome<f64> {
        cpu(&self.child.id().to_string())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves a store in `folder`, and prints where.
pub(crate) async fn serve(folder: &Path, tls: bool) -> Outcome<()> {
    let store = LocalStore::open(folder.join("data"), StoreOptions::default()).await?;
    let mut server = Serving::new(Arc::new(store), ServerOptions::default());
    if tls {
        let certificate = std::fs::read(folder.join("cert.pem"))?;
        let key = std::fs::read(folder.join("key.pem"))?;
        server = server.with_tls(TlsAcceptor::new(&TlsServerOptions::new(certificate, key))?);
    }
    let server = server.bind(&"127.0.0.1:0".parse()?).await?;
    println!("{}", server.local_addr());
    Ok(server.serve(std::future::pending()).await?)
}

/// Seconds of CPU of a process (its number, or "self"), its ended threads included.
pub(crate) fn cpu(process: &str) -> Outcome<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, in parentheses, may hold anything; numbers follow.
    let fields = stat.rsplit_once(')').ok_or("no name in stat")?.1;
    let mut ticks = 0;
    for field in fields.split_whitespace().skip(11).take(2) {
        ticks += field.parse::<u64>()?;
    }
    Ok(ticks as f64 / 100.0)
}
