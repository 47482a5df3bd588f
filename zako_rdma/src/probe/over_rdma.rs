//! Exchanges over RDMA, as the end that tries makes them.

use tokio::time::{Instant, sleep};

use super::measured::Exchange;
use super::message::{Answer, ProbeClient, out_of_order};
use super::pattern;
use super::run::{Batch, Came};
use super::scratch::offset;
use crate::fabric::{Completion, FabricError, FailureKind, Work};
use crate::memory::Slot;
use crate::session::handshake::Setup;
use crate::session::{Hello, SessionError, Verdict};

/// Added to the number of an exchange for a SEND whose echo ends it.
const SENT: u64 = 1 << 32;

/// Exchanges under way.
struct Exchanging<'a> {
    setup: &'a mut Setup<ProbeClient>,
    peer: &'a Hello,
    batch: &'a Batch,
    /// What is written or sent, the last one first.
    filled: Vec<Slot>,
    /// When each began.
    began: Vec<Instant>,
    /// What was read or received, in its order, with its length.
    received: Vec<(Slot, u32)>,
    /// SENDs whose slot has not come back.
    sends: usize,
    came: Came,
}

/// Makes the exchanges of a batch.
pub(super) async fn exchange(
    setup: &mut Setup<ProbeClient>,
    peer: &Hello,
    batch: &Batch,
) -> Result<Came, SessionError> {
    let mut exchanging = Exchanging {
        setup,
        peer,
        batch,
        filled: Vec::new(),
        began: Vec::new(),
        received: Vec::new(),
        sends: 0,
        came: Came::default(),
    };
    if batch.exchange != Exchange::Read {
        for number in (0..batch.count).rev() {
            let mut slot = exchanging.slot()?;
            pattern::fill(&mut slot[..batch.length as usize], batch.seed, number);
            exchanging.filled.push(slot);
        }
    }
    exchanging.run().await?;
    let Exchanging { received, came, .. } = exchanging;
    Ok(came.compared(
        batch,
        received
            .iter()
            .map(|(slot, length)| slot.get(..*length as usize).unwrap_or_default()),
    ))
}

impl Exchanging<'_> {
    async fn run(&mut self) -> Result<(), SessionError> {
        let (count, window) = (self.batch.count as usize, self.batch.window as usize);
        let mut completions = Vec::new();
        let begin = Instant::now();
        loop {
            let ended = self.came.times.len();
            while self.began.len() < count.min(ended + window) {
                self.begin()?;
            }
            if ended == count {
                if self.came.took.is_zero() {
                    self.came.took = begin.elapsed();
                }
                if self.sends == 0 {
                    return Ok(());
                }
            }
            wait(self.setup, &mut completions).await?;
            // All of them are counted, also behind one that ends the probe.
            let mut outcome = Ok(());
            for completion in completions.drain(..) {
                let taken = self.completed(completion);
                outcome = outcome.and(taken);
            }
            outcome?;
        }
    }

    fn begin(&mut self) -> Result<(), SessionError> {
        let number = self.began.len() as u64;
        let length = self.batch.length;
        let place = offset(number as u32) as u64;
        let address = self.peer.memory.part(place, length.into());
        let address = address.ok_or_else(|| out_of_order("the server has too little memory"))?;
        let key = self.peer.memory.key;
        let work = match self.batch.exchange {
            Exchange::Read => Work::Read {
                into: self.slot()?,
                length,
                address,
                key,
            },
            Exchange::Write => Work::Write {
                from: self.filled()?,
                length,
                address,
                key,
            },
            Exchange::Send => {
                let into = self.slot()?;
                self.setup.post(number, Work::Receive { into })?;
                Work::Send {
                    from: self.filled()?,
                    length,
                }
            }
        };
        self.began.push(Instant::now());
        match self.batch.exchange {
            Exchange::Send => {
                self.sends += 1;
                self.setup.post(number + SENT, work)
            }
            _ => self.setup.post(number, work),
        }
    }

    fn completed(&mut self, completion: Completion) -> Result<(), SessionError> {
        let Completion { id, outcome, slot } = completion;
        let length = match self.setup.lifecycle.completed(outcome)? {
            Verdict::Good(length) => length,
            Verdict::Failed(error) => return Err(error.into()),
            Verdict::Ignored => return Ok(()),
        };
        if id >= SENT {
            self.sends = self.sends.saturating_sub(1);
            return Ok(());
        }
        let began = usize::try_from(id).ok().and_then(|at| self.began.get(at));
        let began = began.ok_or_else(|| out_of_order("something came that was not awaited"))?;
        self.came.times.push(began.elapsed());
        if self.batch.exchange != Exchange::Write {
            self.received.push((slot, length));
        }
        Ok(())
    }

    fn filled(&mut self) -> Result<Slot, SessionError> {
        self.filled.pop().ok_or_else(no_slot)
    }

    fn slot(&mut self) -> Result<Slot, SessionError> {
        self.setup.card()?.local.take().ok_or_else(no_slot)
    }
}

/// Waits for completions, and for the end of the control stream.
async fn wait(
    setup: &mut Setup<ProbeClient>,
    completions: &mut Vec<Completion>,
) -> Result<(), SessionError> {
    // As long as completions come quickly, sleeping costs more than looking.
    for _ in 0..setup.options.polls {
        setup.card()?.endpoint.poll(completions)?;
        if !completions.is_empty() {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
    let limit = setup.options.read_timeout;
    let Setup { wire, card, .. } = &mut *setup;
    let card = card.as_mut().ok_or_else(no_slot)?;
    let lost = tokio::select! {
        biased;
        polled = card.completed(completions) => return Ok(polled?),
        answer = wire.next_raw() => {
            Answer::try_from(answer?)?;
            return Err(out_of_order("an answer to nothing"));
        }
        () = sleep(limit) => format!("work was not completed within {limit:?}"),
    };
    let error = FabricError::new(FailureKind::Device, lost);
    Err(setup.lifecycle.failed(error).into())
}

fn no_slot() -> SessionError {
    SessionError::Internal("a probe has no slot left".to_owned())
}
