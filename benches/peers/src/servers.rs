//! The servers, each with the same blobs.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use futures::StreamExt;
use tempfile::TempDir;
use zako_core::BlobRange;
use zako_core::cas::Cas;

use crate::load::{Load, write_list};
use crate::nginx::Nginx;
use crate::process::{Server, usage};
use crate::run::Run;
use crate::worker::{How, Peer, Task, Worker};
use crate::{Outcome, iroh_blobs_peer};

/// The servers of one load, all running.
pub(crate) struct Servers {
    zako: Server,
    iroh_blobs: Provider,
    /// With sendfile and without.
    nginx: Option<(Nginx, Nginx)>,
    /// The names of the blobs.
    pub(crate) list: PathBuf,
    _folders: Vec<TempDir>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Id {
    Zako,
    IrohBlobs,
    NginxSendfile,
    NginxNoSendfile,
}

/// A process that provides blobs by iroh-blobs; killed when dropped.
struct Provider {
    child: Child,
    address: String,
}

impl Servers {
    pub(crate) async fn start(run: &Run, load: &Load) -> Outcome<Self> {
        let (zako, iroh_blobs, files) = (run.new_folder()?, run.new_folder()?, run.new_folder()?);
        let blobs = load.blobs();
        let list = iroh_blobs.path().join(iroh_blobs_peer::LIST);
        for (digest, data) in &blobs {
            std::fs::write(files.path().join(digest.file_name()), data)?;
        }
        let server = Server::start(run, zako.path(), &[])?;
        let client = server.client(true).await?;
        let digests: Vec<_> = blobs.iter().map(|(digest, _)| *digest).collect();
        for batch in blobs.chunks(1_000) {
            for outcome in client.put_batch(batch.to_vec()).await {
                outcome?;
            }
        }
        write_list(&list, &blobs)?;
        drop(blobs);
        // The first read of each is hashed by the server.
        for digest in &digests {
            let mut blob = client.fetch(digest, BlobRange::FULL).await?;
            while let Some(step) = blob.next().await {
                step?;
            }
        }
        drop(client);
        let mut filling = Worker::start(
            Peer::IrohBlobs,
            &Task {
                load: *load,
                how: How::PutLater,
                address: String::new(),
                list: list.clone(),
                folder: iroh_blobs.path().to_owned(),
            },
        )?;
        filling.work()?;
        filling.end()?;
        let with = Nginx::start(files.path(), run.new_folder()?, true)?;
        let without = Nginx::start(files.path(), run.new_folder()?, false)?;
        if with.is_none() {
            eprintln!("nginx is not installed: going on without it");
        }
        Ok(Self {
            zako: server,
            iroh_blobs: Provider::start(&iroh_blobs)?,
            nginx: with.zip(without),
            list,
            _folders: vec![zako, iroh_blobs, files],
        })
    }

    /// Where one is; `None` if it is not installed.
    pub(crate) fn address(&self, id: Id) -> Option<String> {
        match (id, &self.nginx) {
            (Id::Zako, _) => Some(self.zako.url.to_string()),
            (Id::IrohBlobs, _) => Some(self.iroh_blobs.address.clone()),
            (Id::NginxSendfile, nginx) => Some(nginx.as_ref()?.0.address.clone()),
            (Id::NginxNoSendfile, nginx) => Some(nginx.as_ref()?.1.address.clone()),
        }
    }

    /// Seconds of CPU so far.
    pub(crate) fn cpu(&self, id: Id) -> Outcome<f64> {
        match (id, &self.nginx) {
            (Id::Zako, _) => Ok(self.zako.usage()?.cpu),
            (Id::IrohBlobs, _) => Ok(usage(&self.iroh_blobs.child.id().to_string())?.cpu),
            (Id::NginxSendfile, Some((nginx, _))) => nginx.cpu(),
            (Id::NginxNoSendfile, Some((_, nginx))) => nginx.cpu(),
            _ => Err("nginx is not installed".into()),
        }
    }
}

impl Servers {
    /// Seconds of CPU of all servers so far.
    pub(crate) fn all_cpu(&self) -> Outcome<f64> {
        let ids = [
            Id::Zako,
            Id::IrohBlobs,
            Id::NginxSendfile,
            Id::NginxNoSendfile,
        ];
        let running = ids.into_iter().filter(|id| self.address(*id).is_some());
        running.map(|id| self.cpu(id)).sum()
    }
}

impl Provider {
    fn start(store: &TempDir) -> Outcome<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(iroh_blobs_peer::ROLE)
            .arg(store.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("the provider has no stdout")?;
        let mut provider = Self {
            child,
            address: String::new(),
        };
        BufReader::new(stdout).read_line(&mut provider.address)?;
        provider.address.truncate(provider.address.trim_end().len());
        match provider.address.is_empty() {
            true => Err("the provider ended".into()),
            false => Ok(provider),
        }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
