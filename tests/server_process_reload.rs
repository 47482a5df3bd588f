//! SIGHUP, and what a service manager is told.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod server_process;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use server_process::{Place, noise};
use zako_core::cas::Cas;
use zako_core::client::{Client, ClientOptions};

/// A server that is told about by a file, and tells a service manager.
struct Managed {
    place: Place,
    child: Child,
    manager: UnixDatagram,
    address: String,
}

/// How long a state may take before the test gives it up.
const HUNG: Duration = Duration::from_secs(120);

impl Managed {
    fn start(config: &str, variables: &[(&str, &str)]) -> Self {
        let place = Place::new();
        let home = place.data().parent().unwrap().to_owned();
        std::fs::write(home.join("zako.toml"), config).unwrap();
        let manager = UnixDatagram::bind(home.join("notify")).unwrap();
        manager.set_read_timeout(Some(HUNG)).unwrap();
        let mut command = place.command(&["serve", "--listen", "127.0.0.1:0"]);
        let mut child = command
            .arg("--data")
            .arg(place.data())
            .env("NOTIFY_SOCKET", home.join("notify"))
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(File::create(home.join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("zako: ready grpc=");
        Self {
            address: address.unwrap_or_else(|| panic!("{line:?}")).to_owned(),
            place,
            child,
            manager,
        }
    }

    fn config(&self) -> PathBuf {
        self.place.data().with_file_name("zako.toml")
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until the service manager is told this, and gives all that came with it.
    fn tells(&self, state: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            let length = self.manager.recv(&mut buffer).unwrap_or_else(|error| {
                panic!("{state} is not told: {error}\n{}", self.said());
            });
            let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
            if text.lines().any(|line| line == state) {
                return text;
            }
        }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.place.data().with_file_name("stderr")).unwrap()
    }

    /// Puts a configuration in the place of the one before, and waits for what is said of it.
    fn reload(&self, config: &str) -> String {
        let before = self.said().len();
        std::fs::write(self.config(), config).unwrap();
        self.signal(Signal::HUP);
        let told = self.tells("RELOADING=1");
        assert!(told.contains("MONOTONIC_USEC="), "{told}");
        self.tells("READY=1");
        self.said()[before..].to_owned()
    }

    fn ended(mut self) -> Option<i32> {
        let late = Instant::now() + HUNG;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < late, "it hangs: {}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_change_does_and_the_rest_is_named() {
    let server = Managed::start("[server]\nlease = \"1h\"\n", &[]);
    server.tells("READY=1");
    let said = server.reload("[server]\nlease = \"1h\"\nscrub-rate = \"1MiB/s\"\n");
    assert!(said.contains("changed: server.scrub-rate"), "{said}");
    assert!(!said.contains("restart"), "{said}");

    let said = server.reload("[server]\nlease = \"2h\"\n[telemetry]\nlog = \"warn\"\n");
    assert!(said.contains("need a restart: server.lease"), "{said}");
    // The log is at warnings already.
    let said = server
        .reload("[server]\nlease = \"2h\"\ndrain-timeout = \"1h\"\n[telemetry]\nlog = \"warn\"\n");
    assert!(!said.contains("changed:"), "{said}");
    assert!(said.contains("need a restart: server.lease"), "{said}");
    let said = server.reload("[server]\nlease = \"1h\"\ndrain-timeout = \"1h\"\n");
    assert!(said.contains("changed: telemetry.log"), "{said}");
    assert!(!said.contains("restart"), "{said}");

    // The drain is as long as the file says now, not as it said at the start.
    let url = format!("http://{}", server.address).parse().unwrap();
    let client = Client::connect(&url, ClientOptions::default())
        .await
        .unwrap();
    let data = noise(1, 4 << 20);
    let mut upload = client
        .writer(&zako_digest::hash::bytes(&data), 0)
        .await
        .unwrap();
    upload.write(data.slice(..2 << 20)).await.unwrap();
    server.reload("[server]\nlease = \"1h\"\ndrain-timeout = \"1ms\"\n");
    server.signal(Signal::TERM);
    server.tells("STOPPING=1");
    assert_eq!(server.ended(), Some(0));
}

#[test]
fn a_broken_file_changes_nothing_and_says_where() {
    let server = Managed::start("[server]\nlease = \"1h\"\n", &[]);
    server.tells("READY=1");
    let said = server
        .reload("[server]\nlease = \"1h\"\nscrub-rate = \"fast\"\n[telemetry]\nlog = \"off\"\n");
    assert!(said.contains("NOT reloaded"), "{said}");
    assert!(
        said.contains("line 3, column 14: \"fast\" is not a rate"),
        "{said}"
    );
    assert!(said.contains("scrub-rate = \"fast\""), "{said}");
    // Had the log been switched off, this would not be said.
    let said = server.reload("[server]\nlease = \"1h\"\n[telemetry]\nlog = \"no=such=filter\"\n");
    assert!(said.contains("NOT reloaded"), "{said}");
    let said = server.reload("[server]\nlease = \"1h\"\n");
    assert!(said.contains("changed: nothing"), "{said}");
    server.signal(Signal::TERM);
    server.tells("STOPPING=1");
    assert_eq!(server.ended(), Some(0));
}

#[test]
fn a_service_manager_is_told_of_all_that_happens() {
    let pid = std::process::id().to_string();
    let server = Managed::start("", &[("WATCHDOG_USEC", "300000")]);
    server.tells("STATUS=opening the store");
    server.tells("EXTEND_TIMEOUT_USEC=30000000");
    server.tells("READY=1");
    server.tells("WATCHDOG=1");
    server.tells("WATCHDOG=1");
    server.signal(Signal::USR2);
    server.tells("RELOADING=1");
    server.tells("READY=1");
    server.tells("WATCHDOG=1");
    server.signal(Signal::TERM);
    let told = server.tells("STOPPING=1");
    assert!(told.contains("EXTEND_TIMEOUT_USEC=50000000"), "{told}");
    assert_eq!(server.ended(), Some(0));
    // A watchdog of another process is none of its business.
    let server = Managed::start("", &[("WATCHDOG_USEC", "300000"), ("WATCHDOG_PID", &pid)]);
    server.signal(Signal::TERM);
    let mut told = String::new();
    let mut buffer = [0; 4096];
    while !told.contains("STOPPING=1") {
        let length = server.manager.recv(&mut buffer).unwrap();
        told.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    assert!(!told.contains("WATCHDOG"), "{told}");
    assert_eq!(server.ended(), Some(0));
}

/// A load balancer that asks hears of the end before anyone is refused.
#[tokio::test(flavor = "multi_thread")]
async fn readiness_ends_before_service() {
    use tonic::transport::Endpoint;
    use zako_core::cas::CasExt;
    let place = Place::new();
    let server = place.serve(&["--drain-delay", "1h"]);
    let client = server.client().await;
    let (digest, _) = client.put_bytes("here").await.unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address())).unwrap();
    let status = async || {
        let channel = endpoint.connect().await.unwrap();
        let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
        let request = tonic_health::pb::HealthCheckRequest::default();
        health.check(request).await.unwrap().into_inner().status()
    };
    use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};
    assert_eq!(status().await, Serving);
    server.signal(Signal::TERM);
    while status().await != NotServing {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Old connections and new ones are served all the same.
    assert_eq!(client.fetch_bytes(&digest).await.unwrap(), "here");
    let late = server.client().await;
    assert_eq!(late.fetch_bytes(&digest).await.unwrap(), "here");
    server.signal(Signal::TERM);
    let (code, said) = server.ended().await;
    assert_eq!(code, Some(1), "{said}");
}
