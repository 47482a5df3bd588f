//! The end of a probe that has the scratch memory and sends back what it receives.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use super::message::{Answer, Ask, ProbeServer};
use super::run::setup;
use super::scratch::Scratch;
use super::{SLOTS, UNREAD};
use crate::fabric::{Completion, Fabric, Work};
use crate::memory::Slot;
use crate::session::handshake::Setup;
use crate::session::{Budget, Control, SessionError, SessionOptions, Verdict};

/// What work is called in its completion.
const RECEIVE: u64 = 1;
const ECHO: u64 = 2;

/// Serves one probe until the client ends it, or `end` says why it is to end; why it did.
/// All that was taken for it is given back then. `end` must come, as a client may have none.
pub async fn serve(
    fabric: Arc<dyn Fabric>,
    control: Control<ProbeServer>,
    options: &SessionOptions,
    budget: &Budget,
    end: impl Future<Output = SessionError> + Send,
) -> SessionError {
    let options = setup(options);
    let mut setup = Setup::new(fabric, control, options, budget, UNREAD);
    let error = tokio::select! {
        biased;
        error = end => error,
        answered = answer(&mut setup) => match answered {
            Err(error) => error,
            Ok(never) => match never {},
        },
    };
    setup.end(&error).await;
    error
}

async fn answer(setup: &mut Setup<ProbeServer>) -> Result<Infallible, SessionError> {
    setup.run().await?;
    let card = setup.card()?;
    let mut probed = Probed {
        scratch: Scratch::new(&card.exposed),
        received: VecDeque::new(),
        setup,
    };
    for _ in 0..SLOTS {
        let into = probed.setup.card()?.local.take();
        let into = into.ok_or_else(|| SessionError::Internal("no slot to receive".to_owned()))?;
        probed.post(RECEIVE, Work::Receive { into })?;
    }
    probed.answer().await
}

/// A probe whose ends have read each other's memory.
struct Probed<'a> {
    setup: &'a mut Setup<ProbeServer>,
    scratch: Scratch,
    /// What is to be sent back, with its length, when there is a slot to receive the next
    /// message in: who has its answer sends again.
    received: VecDeque<(Slot, u32)>,
}

impl Probed<'_> {
    async fn answer(&mut self) -> Result<Infallible, SessionError> {
        let mut completions = Vec::new();
        loop {
            let Setup { wire, card, .. } = &mut *self.setup;
            let card = card
                .as_mut()
                .ok_or_else(|| SessionError::Internal("a probe without a card".to_owned()))?;
            tokio::select! {
                biased;
                asked = wire.next_raw() => {
                    let answer = self.asked(asked?.try_into()?)?;
                    self.setup.wire.send_raw(answer.into())?;
                    // A client that never stops asking holds up nobody else.
                    tokio::task::yield_now().await;
                }
                polled = card.completed(&mut completions) => {
                    let mut outcome = polled.map_err(SessionError::from);
                    // All of them are counted, also behind one that ends the probe.
                    for completion in completions.drain(..) {
                        let taken = self.completed(completion);
                        outcome = outcome.and(taken);
                    }
                    outcome?;
                    self.send_back()?;
                }
            }
        }
    }

    fn asked(&mut self, ask: Ask) -> Result<Answer, SessionError> {
        Ok(match ask {
            Ask::Fill { seed, length } => {
                self.scratch.fill(seed, length, SLOTS)?;
                Answer::Done
            }
            Ask::Verify {
                seed,
                length,
                slots,
            } => Answer::Verified {
                wrong: self.scratch.wrong(seed, length, slots)?,
            },
            Ask::Read { slot, length } => Answer::Data(self.scratch.bytes(slot, length)?),
            Ask::Write { slot, data } => {
                self.scratch.write(slot, &data)?;
                Answer::Done
            }
            Ask::Echo(data) => Answer::Data(data),
        })
    }

    fn completed(&mut self, completion: Completion) -> Result<(), SessionError> {
        let Completion { id, outcome, slot } = completion;
        match self.setup.lifecycle.completed(outcome)? {
            Verdict::Good(length) if id == RECEIVE => self.received.push_back((slot, length)),
            Verdict::Good(_) | Verdict::Ignored => {}
            Verdict::Failed(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn send_back(&mut self) -> Result<(), SessionError> {
        while !self.received.is_empty() {
            let Some(into) = self.setup.card()?.local.take() else {
                break;
            };
            if let Some((from, length)) = self.received.pop_front() {
                self.post(RECEIVE, Work::Receive { into })?;
                self.post(ECHO, Work::Send { from, length })?;
            }
        }
        Ok(())
    }

    fn post(&mut self, id: u64, work: Work) -> Result<(), SessionError> {
        self.setup.post(id, work)
    }
}
