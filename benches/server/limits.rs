//! What the machine itself can do: the yardsticks of the figures.

use std::fs::File;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::Outcome;
use crate::process::usage;

/// The title of the table.
pub(crate) const TITLE: &str = "Limits of the machine";

/// The role of the process that sends for [`tcp`].
pub(crate) const TCP_SOURCE: &str = "--tcp-source";

/// The size of one read or write.
const STEP: usize = 256 * 1024;

/// Bytes a second, and the seconds of CPU that they took in all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) rate: f64,
    pub(crate) sender: f64,
    pub(crate) receiver: f64,
}

/// Another process sends over loopback, this one receives. What is sent is one
/// buffer again and again, or a file that is read step by step.
pub(crate) fn tcp(bytes: u64, file: Option<&Path>) -> Outcome<Limit> {
    let mut child = Command::new(std::env::current_exe()?)
        .args([TCP_SOURCE, &bytes.to_string()])
        .args(file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = BufReader::new(child.stdout.take().ok_or("the sender has no stdout")?);
    let mut address = String::new();
    said.read_line(&mut address)?;
    let before = usage("self")?.cpu;
    let mut stream = TcpStream::connect(address.trim_end())?;
    let mut buffer = vec![0; STEP];
    let start = Instant::now();
    let mut left = bytes;
    while left > 0 {
        match stream.read(&mut buffer)? {
            0 => return Err("the sender ended early".into()),
            read => left -= read as u64,
        }
    }
    let wall = start.elapsed().as_secs_f64();
    let receiver = usage("self")?.cpu - before;
    let mut sender = String::new();
    said.read_line(&mut sender)?;
    child.wait()?;
    Ok(Limit {
        rate: bytes as f64 / wall,
        sender: sender.trim_end().parse()?,
        receiver,
    })
}

/// Sends to the first who connects; prints its address and then its CPU time.
pub(crate) fn tcp_source(bytes: u64, file: Option<&Path>) -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    let mut file = file.map(File::open).transpose()?;
    let (mut stream, _) = listener.accept()?;
    let mut buffer = vec![1; STEP];
    let before = usage("self")?.cpu;
    let mut left = bytes;
    while left > 0 {
        let step = &mut buffer[..left.min(STEP as u64) as usize];
        if let Some(file) = &mut file {
            file.read_exact(step)?;
        }
        stream.write_all(step)?;
        left -= step.len() as u64;
    }
    println!("{}", usage("self")?.cpu - before);
    Ok(())
}

/// Hashes on one thread.
pub(crate) fn hash(blobs: &[bytes::Bytes]) -> Outcome<Limit> {
    let before = usage("self")?.cpu;
    let start = Instant::now();
    for blob in blobs {
        black_box(zako_digest::hash::bytes(blob));
    }
    let wall = start.elapsed().as_secs_f64();
    let bytes: usize = blobs.iter().map(bytes::Bytes::len).sum();
    Ok(Limit {
        rate: bytes as f64 / wall,
        sender: usage("self")?.cpu - before,
        receiver: 0.0,
    })
}

/// Writes a file and syncs it at the end, as
/// `dd conv=fdatasync` does.
pub(crate) fn disk(path: &Path, bytes: u64) -> Outcome<Limit> {
    let mut file = File::create(path)?;
    let buffer = vec![1; 1024 * 1024];
    let before = usage("self")?.cpu;
    let start = Instant::now();
    let mut left = bytes;
    while left > 0 {
        let step = left.min(buffer.len() as u64);
        file.write_all(&buffer[..step as usize])?;
        left -= step;
    }
    file.sync_data()?;
    let wall = start.elapsed().as_secs_f64();
    let sender = usage("self")?.cpu - before;
    Ok(Limit {
        rate: bytes as f64 / wall,
        sender,
        receiver: 0.0,
    })
}

/// Appends blocks and syncs after each of them, as a log does whose every group is
/// durable.
pub(crate) fn appends(path: &Path, block: usize, count: u64) -> Outcome<Limit> {
    let mut file = File::create(path)?;
    let buffer = vec![1; block];
    let before = usage("self")?.cpu;
    let start = Instant::now();
    for _ in 0..count {
        file.write_all(&buffer)?;
        file.sync_data()?;
    }
    let wall = start.elapsed().as_secs_f64();
    let sender = usage("self")?.cpu - before;
    std::fs::remove_file(path)?;
    Ok(Limit {
        rate: (block as u64 * count) as f64 / wall,
        sender,
        receiver: 0.0,
    })
}
