//! iperf3 over loopback: a yardstick that others know.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::Outcome;
use crate::limits::Limit;
use crate::process::children_cpu;

/// A process that is killed when dropped, if it still runs.
struct Running(Child);

impl Running {
    /// Waits for its end; the CPU seconds of its life.
    fn end(mut self) -> Outcome<f64> {
        let before = children_cpu()?;
        let status = self.0.wait()?;
        if !status.success() {
            return Err(format!("iperf3 ended with {status}").into());
        }
        Ok(children_cpu()? - before)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One stream of `bytes` from one process to another; `None` where iperf3 is not
/// installed.
pub(crate) fn loopback(bytes: u64) -> Outcome<Option<Limit>> {
    // iperf3 can't choose a free port itself.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let port = port.to_string();
    let server = start(&["-s", "-1", "--forceflush", "-B", "127.0.0.1", "-p", &port]);
    let mut server = match server {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        outcome => Running(outcome?),
    };
    let mut said = BufReader::new(server.0.stdout.take().ok_or("iperf3 has no stdout")?);
    let mut line = String::new();
    while !line.contains("Server listening") {
        line.clear();
        if said.read_line(&mut line)? == 0 {
            return Err("iperf3 ended before it listened".into());
        }
    }
    let bytes = bytes.to_string();
    let mut client = Running(start(&[
        "-c",
        "127.0.0.1",
        "-p",
        &port,
        "-n",
        &bytes,
        "-J",
    ])?);
    let mut json = String::new();
    let mut stdout = client.0.stdout.take().ok_or("iperf3 has no stdout")?;
    stdout.read_to_string(&mut json)?;
    let sender = client.end()?;
    // Whatever it still says, it must not wait for a reader.
    said.read_to_end(&mut Vec::new())?;
    let receiver = server.end()?;
    let json: Value = serde_json::from_str(&json)?;
    let rate = json["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(Some(Limit {
        rate: rate.ok_or("iperf3 tells no rate")? / 8.0,
        sender,
        receiver,
    }))
}

fn start(args: &[&str]) -> std::io::Result<Child> {
    Command::new("iperf3")
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
}
