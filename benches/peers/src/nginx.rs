//! nginx: files over HTTP/1.1 with connections that are kept, one request at a time
//! on each; got by the least client that does.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use zako_core::Digest;
use zako_digest::hash::Hasher;

use crate::Outcome;
use crate::load::read_list;
use crate::process::usage;
use crate::worker::{Cue, How, Task};

/// A running nginx; ended when dropped.
pub(crate) struct Nginx {
    child: Child,
    pub(crate) address: String,
    _prefix: TempDir,
}

/// The size of one read of the client.
const STEP: usize = 256 * 1024;

impl Nginx {
    /// Serves the files of a folder; `None` where nginx is not installed.
    pub(crate) fn start(files: &Path, prefix: TempDir, sendfile: bool) -> Outcome<Option<Self>> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let config = prefix.path().join("nginx.conf");
        std::fs::write(&config, configuration(files, &address, sendfile)?)?;
        let child = Command::new("nginx")
            .args(["-e", "stderr", "-p"])
            .arg(prefix.path())
            .arg("-c")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        let child = match child {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            child => child?,
        };
        let mut nginx = Self {
            child,
            address,
            _prefix: prefix,
        };
        while TcpStream::connect(&nginx.address).is_err() {
            if let Some(status) = nginx.child.try_wait()? {
                return Err(format!("nginx ended with {status}").into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Some(nginx))
    }

    /// Seconds of CPU of all its processes.
    pub(crate) fn cpu(&self) -> Outcome<f64> {
        let id = self.child.id();
        let workers = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
        let mut cpu = usage(&id.to_string())?.cpu;
        for worker in workers.split_whitespace() {
            cpu += usage(worker)?.cpu;
        }
        Ok(cpu)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Not a kill, which would leave its workers behind.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

/// What is usual for static files: a worker per core, headers go with the first bytes.
/// Files are opened for each request, as by default: kept open, 20,000 of them are
/// more than processes may have in many places.
fn configuration(files: &Path, address: &str, sendfile: bool) -> Outcome<String> {
    let mut text = String::from("daemon off;\npid nginx.pid;\nworker_processes auto;\n");
    if rustix::process::geteuid().is_root() {
        // The files are of this user alone.
        text.push_str("user root;\n");
    }
    let files = files.to_str().ok_or("a folder's name is not UTF-8")?;
    let sendfile = if sendfile { "on" } else { "off" };
    write!(
        text,
        "events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile {sendfile};
    tcp_nopush on;
    tcp_nodelay on;
    output_buffers 2 256k;
    keepalive_requests 100000000;
    keepalive_timeout 1h;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen {address};
        root {files:?};
    }}
}}
"
    )?;
    Ok(text)
}

/// Gets all blobs on as many connections as there are blobs under way.
pub(crate) fn get(task: &Task, cue: Cue) -> Outcome<()> {
    let digests = read_list(&task.list)?;
    let hashed = task.how == How::GetHashed;
    let connections: Vec<TcpStream> = (0..task.load.at_once())
        .map(|_| {
            let stream = TcpStream::connect(&task.address)?;
            stream.set_nodelay(true)?;
            Outcome::Ok(stream)
        })
        .collect::<Outcome<_>>()?;
    let next = AtomicUsize::new(0);
    let running = cue.wait()?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = connections
            .into_iter()
            .map(|mut stream| {
                let (next, digests) = (&next, &digests);
                scope.spawn(move || {
                    let mut buffer = vec![0; STEP];
                    while let Some(digest) = digests.get(next.fetch_add(1, Ordering::Relaxed)) {
                        get_one(&mut stream, digest, hashed, &mut buffer)?;
                    }
                    Outcome::Ok(())
                })
            })
            .collect();
        for thread in threads {
            thread
                .join()
                .map_err(|_| "a thread of the client panicked")??;
        }
        Outcome::Ok(())
    })?;
    running.end()
}

fn get_one(
    stream: &mut TcpStream,
    digest: &Digest,
    hashed: bool,
    buffer: &mut [u8],
) -> Outcome<()> {
    let name = digest.file_name();
    let request = format!("GET /{name} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let (mut filled, head) = (0, b"\r\n\r\n");
    let body = loop {
        match stream.read(&mut buffer[filled..])? {
            0 => return Err("nginx closed a connection".into()),
            read => filled += read,
        }
        let found = buffer[..filled]
            .windows(head.len())
            .position(|at| at == head);
        if let Some(at) = found {
            break at + head.len();
        }
    };
    let head = std::str::from_utf8(&buffer[..body])?;
    let length = format!("\r\nContent-Length: {}\r\n", digest.size());
    if !head.starts_with("HTTP/1.1 200 ") || !head.contains(&length) {
        return Err(format!("nginx answered {head:?}").into());
    }
    let mut hasher = Hasher::new();
    let mut left = digest.size();
    let mut step = body..filled;
    loop {
        left = left
            .checked_sub(step.len() as u64)
            .ok_or("nginx sent too much")?;
        if hashed {
            hasher.update(&buffer[step]);
        }
        if left == 0 {
            break;
        }
        match stream.read(buffer)? {
            0 => return Err("nginx closed a connection".into()),
            read => step = 0..read,
        }
    }
    if hashed && hasher.finish() != *digest {
        return Err("nginx sent other bytes".into());
    }
    Ok(())
}
