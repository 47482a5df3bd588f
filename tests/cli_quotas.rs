//! What callers stored in a day outlives the server that counted it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod zako_process;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use zako_core::access::{Exceeded, Limit, Secret};
use zako_core::cas::{Cas, CasError};
use zako_core::client::{Client, ClientOptions};
use zako_process::{Home, noise};

const NO_SPACE: i32 = 6;

const MIB: usize = 1 << 20;

const HOUR: Duration = Duration::from_secs(3600);

/// After so long, what is awaited will not come.
const HUNG: Duration = Duration::from_secs(60);

/// A server whose callers may store 2 MiB a day; killed when dropped.
struct Serving {
    child: Child,
    grpc: String,
    http: String,
}

impl Serving {
    fn start(home: &Home) -> Self {
        let any = "127.0.0.1:0";
        let serve = ["serve", "--json", "--log", "error", "--data", "data"];
        let mut command = home.command(serve);
        let command = command.args(["--listen", any, "--http", any]);
        let mut child = command.stderr(Stdio::inherit()).spawn().unwrap();
        let mut ready = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut ready).unwrap();
        let ready: Value = serde_json::from_str(&ready).unwrap();
        let address = |name: &str| ready[name].as_str().unwrap().to_owned();
        Self {
            child,
            grpc: address("grpc"),
            http: address("http"),
        }
    }

    fn end(mut self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let ended = self.child.wait().unwrap();
        assert_eq!(ended.success(), signal == Signal::TERM, "{ended}");
    }

    /// The status of a put, and when to try again.
    fn put(&self, token: &str, data: &[u8]) -> (u16, Option<Duration>) {
        let mut stream = TcpStream::connect(&self.http).unwrap();
        let hash = zako_digest::hash::bytes(data);
        let head = format!(
            "PUT /cas/blake3/{} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             authorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n",
            hash.hash(),
            data.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        // Who is refused may be closed to before all is sent.
        let _ = stream.write_all(data);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        let mut lines = answer.lines();
        let after = lines.find_map(|line| line.strip_prefix("retry-after: "));
        let status = answer[9..12].parse().unwrap();
        let after = after.map(|after| Duration::from_secs(after.trim().parse().unwrap()));
        (status, after)
    }

    /// Why a put of the own protocol fails.
    async fn refusal(&self, token: &str, data: &[u8]) -> CasError {
        let mut options = ClientOptions::default();
        options.token = Some(Secret::new(token));
        let url = format!("http://{}", self.grpc).parse().unwrap();
        let client = Client::connect(&url, options).await.unwrap();
        let digest = zako_digest::hash::bytes(data);
        client.put(&digest, data.to_vec().into()).await.unwrap_err()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A day after what was stored some moments ago; hours are counted.
#[track_caller]
fn is_in_a_day(after: Option<Duration>) {
    let after = after.unwrap();
    assert!(after > 22 * HOUR && after <= 24 * HOUR, "{after:?}");
}

/// The bytes that are known to the next server.
fn kept(home: &Home) -> usize {
    let record = std::fs::read(home.path("data/quotas.json")).unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    assert_eq!(record["stored"][0][0], "identity:ci");
    let hours = record["stored"][0][1]["hours"].as_array().unwrap();
    let bytes = hours.iter().map(|hour| hour[1].as_u64().unwrap());
    bytes.sum::<u64>() as usize
}

/// The token of `ci`, whose limits are configured.
fn limited(home: &Home) -> String {
    let said = home.run(["access", "token", "ci", "--role", "write", "--json"]);
    said.ok();
    let made = said.json().remove(0);
    let limits = "[[limits.identity]]\nname = \"ci\"\nstored-bytes-per-day = \"2MiB\"\n";
    let config = made["config"].as_str().unwrap();
    home.write("zako.toml", format!("{config}\n{limits}"));
    made["token"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_used_up_its_day_is_refused_by_the_next_server_too() {
    let mut home = Home::new();
    let token = limited(&home);
    home.set("ZAKO_TOKEN", &token);
    let (first, second) = (noise(1, MIB), noise(2, MIB / 2));
    let beyond = noise(3, MIB);
    home.write("beyond", &beyond);

    let server = Serving::start(&home);
    assert_eq!(server.put(&token, &first), (201, None));
    server.end(Signal::TERM);

    let server = Serving::start(&home);
    assert_eq!(server.put(&token, &second), (201, None));
    let (status, after) = server.put(&token, &beyond);
    assert_eq!(status, 507);
    is_in_a_day(after);
    let error = server.refusal(&token, &beyond).await;
    assert_eq!(Exceeded::of(&error).unwrap().limit, Limit::Stored);
    assert_eq!(Exceeded::of(&error).unwrap().subject, "identity:ci");
    is_in_a_day(error.retry_after());
    let url = format!("http://{}", server.grpc);
    let said = home.run(["put", "beyond", "--server", &url]);
    let text = said.fails(NO_SPACE);
    assert!(text.contains("a day has passed"), "{text}");

    // A crash forgets what was not yet on disk; this has been for some seconds then.
    let late = Instant::now() + HUNG;
    while kept(&home) < MIB + MIB / 2 {
        assert!(Instant::now() < late, "what was stored is never kept");
        std::thread::sleep(Duration::from_millis(50));
    }
    server.end(Signal::KILL);

    let server = Serving::start(&home);
    let (status, after) = server.put(&token, &beyond);
    assert_eq!(status, 507);
    is_in_a_day(after);
    // What is there needs no room, and what was left of it is left.
    assert_eq!(server.put(&token, &first), (200, None));
    assert_eq!(server.put(&token, &noise(4, MIB / 2)), (201, None));
    assert_eq!(server.put(&token, &noise(5, 1)).0, 507);
}
