//! The end of a probe that tries.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::measured::{Exchange, Measured, Road, percentile};
use super::message::{Answer, Ask, ProbeClient, out_of_order};
use super::{SLOT_BYTES, SLOTS, UNREAD, over_rdma, over_stream, pattern};
use crate::fabric::Fabric;
use crate::session::handshake::Setup;
use crate::session::{Budget, Control, Hello, SessionError, SessionOptions};

/// What a probe tries.
#[derive(Clone, Debug)]
pub struct ProbeOptions {
    /// Bytes of an exchange, at most [`SLOT_BYTES`] each.
    pub sizes: Vec<u32>,
    /// Exchanges of each kind and size one after the other, and as many at once.
    pub rounds: u32,
    /// No more are begun after this time, of either.
    pub time: Duration,
    /// How its endpoint is made, and its timeouts.
    pub session: SessionOptions,
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeReport {
    /// The port that was used here, for people.
    pub fabric: String,
    /// Where the server's queue pair was.
    pub server_gid: [u8; 16],
    /// Bytes that a packet carried at most.
    pub mtu: u16,
    /// Exchanges at once, where their rate was measured.
    pub at_once: u32,
    /// What came of the exchanges.
    pub measured: Vec<Measured>,
}

/// Some exchanges, each with a slot of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch {
    pub(super) exchange: Exchange,
    pub(super) length: u32,
    pub(super) count: u32,
    /// At once.
    pub(super) window: u32,
    /// Of the pattern.
    pub(super) seed: u64,
}

/// What came of a batch.
#[derive(Debug, Default)]
pub(super) struct Came {
    /// How long each took.
    pub(super) times: Vec<Duration>,
    /// How long all took.
    pub(super) took: Duration,
    /// Those with other bytes than they should have.
    pub(super) wrong: u64,
}

/// Sets a probe up with the server at the other end of `control`, and makes the exchanges of
/// its options; `each` is told what came of them, one by one. Wrong bytes don't end it.
///
/// # Errors
/// Why it could not be set up, or broke off. All that was taken for it is given back, and the
/// server is told.
pub async fn run(
    fabric: Arc<dyn Fabric>,
    control: Control<ProbeClient>,
    options: &ProbeOptions,
    budget: &Budget,
    mut each: impl FnMut(&Measured) + Send,
) -> Result<ProbeReport, SessionError> {
    options.check()?;
    let session = setup(&options.session);
    let mut setup = Setup::new(Arc::clone(&fabric), control, session, budget, UNREAD);
    let outcome = probe(&mut setup, options, &mut each).await;
    let last = outcome.as_ref().err().unwrap_or(&SessionError::Closed);
    setup.end(last).await;
    outcome
}

async fn probe(
    setup: &mut Setup<ProbeClient>,
    options: &ProbeOptions,
    each: &mut (impl FnMut(&Measured) + Send),
) -> Result<ProbeReport, SessionError> {
    let peer = setup.run().await?;
    if peer.grant_bytes as usize != SLOT_BYTES || peer.transfers != SLOTS {
        return Err(out_of_order("the server's slots are not those of a probe"));
    }
    let own = setup.card()?.hello.address;
    let mut probing = Probing {
        setup,
        peer,
        seed: rand::random(),
    };
    // Once it has answered, it receives.
    probing.fill(1).await?;
    let mut report = ProbeReport {
        fabric: probing.setup.fabric.name().to_owned(),
        server_gid: peer.address.gid,
        mtu: own.mtu.min(peer.address.mtu),
        at_once: SLOTS,
        measured: Vec::new(),
    };
    for exchange in Exchange::ALL {
        for size in &options.sizes {
            for road in Road::BOTH {
                let measured = probing.measure(exchange, road, *size, options).await?;
                each(&measured);
                report.measured.push(measured);
            }
        }
    }
    Ok(report)
}

/// A probe whose ends have read each other's memory.
struct Probing<'a> {
    setup: &'a mut Setup<ProbeClient>,
    peer: Hello,
    /// Of the last batch.
    seed: u64,
}

impl Probing<'_> {
    async fn measure(
        &mut self,
        exchange: Exchange,
        road: Road,
        size: u32,
        options: &ProbeOptions,
    ) -> Result<Measured, SessionError> {
        let singly = self.rounds(exchange, road, size, 1, options).await?;
        let at_once = self.rounds(exchange, road, size, SLOTS, options).await?;
        let bytes = at_once.times.len() as f64 * f64::from(size);
        let mut times = singly.times;
        times.sort_unstable();
        Ok(Measured {
            exchange,
            road,
            size,
            rounds: (times.len() + at_once.times.len()) as u64,
            p50: percentile(&times, 50),
            p99: percentile(&times, 99),
            rate: bytes / at_once.took.as_secs_f64().max(1e-9),
            wrong: singly.wrong + at_once.wrong,
        })
    }

    /// Batches until there were as many rounds as wanted, or the time is up.
    async fn rounds(
        &mut self,
        exchange: Exchange,
        road: Road,
        length: u32,
        window: u32,
        options: &ProbeOptions,
    ) -> Result<Came, SessionError> {
        let begin = Instant::now();
        let mut sum = Came::default();
        let mut left = options.rounds;
        while left > 0 && (sum.times.is_empty() || begin.elapsed() < options.time) {
            self.seed = rand::random();
            let count = left.min(SLOTS);
            left -= count;
            let batch = Batch {
                exchange,
                length,
                count,
                window,
                seed: self.seed,
            };
            let came = self.batch(road, &batch).await?;
            sum.times.extend(came.times);
            sum.took += came.took;
            sum.wrong += came.wrong;
        }
        Ok(sum)
    }

    async fn batch(&mut self, road: Road, batch: &Batch) -> Result<Came, SessionError> {
        if batch.exchange == Exchange::Read {
            self.fill(batch.length).await?;
        }
        let mut came = match road {
            Road::Rdma => over_rdma::exchange(self.setup, &self.peer, batch).await?,
            Road::Grpc => over_stream::exchange(self.setup, batch).await?,
        };
        if batch.exchange == Exchange::Write {
            let verify = Ask::Verify {
                seed: batch.seed,
                length: batch.length,
                slots: batch.count,
            };
            came.wrong = match over_stream::ask(self.setup, verify).await? {
                Answer::Verified { wrong } => wrong.min(batch.count).into(),
                _ => return Err(out_of_order("an answer to something else")),
            };
        }
        Ok(came)
    }

    async fn fill(&mut self, length: u32) -> Result<(), SessionError> {
        let seed = self.seed;
        match over_stream::ask(self.setup, Ask::Fill { seed, length }).await? {
            Answer::Done => Ok(()),
            _ => Err(out_of_order("an answer to something else")),
        }
    }
}

impl Came {
    /// With those counted that brought other bytes than the pattern's.
    pub(super) fn compared<'a>(
        mut self,
        batch: &Batch,
        received: impl Iterator<Item = &'a [u8]>,
    ) -> Self {
        for (slot, bytes) in (0..).zip(received) {
            let right =
                bytes.len() == batch.length as usize && pattern::is(bytes, batch.seed, slot);
            self.wrong += u64::from(!right);
        }
        self
    }
}

impl Default for ProbeOptions {
    fn default() -> Self {
        Self {
            sizes: vec![64, 4 << 10, SLOT_BYTES as u32],
            rounds: 200,
            time: Duration::from_secs(1),
            session: SessionOptions::default(),
        }
    }
}

/// How a probe is set up, where sessions are set up like this.
pub(super) fn setup(session: &SessionOptions) -> SessionOptions {
    SessionOptions {
        slot_bytes: SLOT_BYTES,
        run_slots: 1,
        exposed_slots: SLOTS,
        pull_slots: SLOTS,
        // What is received and what is sent don't share slots.
        lent_slots: SLOTS,
        transfers: SLOTS,
        ..session.clone()
    }
}

impl ProbeOptions {
    /// A session that would pin as much memory as the probe.
    pub fn like_session(&self) -> SessionOptions {
        setup(&self.session)
    }

    fn check(&self) -> Result<(), SessionError> {
        let size = |size: &u32| (1..=SLOT_BYTES).contains(&(*size as usize));
        match self.rounds > 0 && !self.sizes.is_empty() && self.sizes.iter().all(size) {
            true => Ok(()),
            false => Err(SessionError::Internal(format!(
                "a probe makes exchanges of 1 to {SLOT_BYTES} bytes, and at least one"
            ))),
        }
    }
}
