//! Exchanges over the control stream, as the end that tries makes them.

use bytes::Bytes;
use tokio::time::{Instant, timeout};

use super::measured::Exchange;
use super::message::{Answer, Ask, ProbeClient, out_of_order};
use super::pattern;
use super::run::{Batch, Came};
use crate::session::SessionError;
use crate::session::handshake::Setup;

/// Makes the exchanges of a batch.
pub(super) async fn exchange(
    setup: &mut Setup<ProbeClient>,
    batch: &Batch,
) -> Result<Came, SessionError> {
    let count = batch.count as usize;
    let mut asks = (0..batch.count)
        .map(|slot| batch.ask(slot))
        .collect::<Vec<_>>();
    asks.reverse();
    let mut came = Came::default();
    let (mut began, mut received) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let begin = Instant::now();
    while came.times.len() < count {
        while began.len() < count.min(came.times.len() + batch.window as usize) {
            if let Some(ask) = asks.pop() {
                began.push(Instant::now());
                setup.wire.send_raw(ask.into())?;
            }
        }
        let answer = answer(setup).await?;
        if let Some(began) = began.get(came.times.len()) {
            came.times.push(began.elapsed());
        }
        match (batch.exchange, answer) {
            (Exchange::Write, Answer::Done) => {}
            (Exchange::Read | Exchange::Send, Answer::Data(data)) => received.push(data),
            _ => return Err(out_of_order("an answer to something else")),
        }
    }
    came.took = begin.elapsed();
    Ok(came.compared(batch, received.iter().map(|data| &data[..])))
}

/// Asks for something and waits for the answer.
pub(super) async fn ask(setup: &mut Setup<ProbeClient>, ask: Ask) -> Result<Answer, SessionError> {
    setup.wire.send_raw(ask.into())?;
    answer(setup).await
}

async fn answer(setup: &mut Setup<ProbeClient>) -> Result<Answer, SessionError> {
    let limit = setup.options.handshake_timeout;
    match timeout(limit, setup.wire.next_raw()).await {
        Ok(answer) => answer?.try_into(),
        Err(_) => Err(SessionError::Timeout(format!(
            "the server did not answer within {limit:?}"
        ))),
    }
}

impl Batch {
    fn ask(&self, slot: u32) -> Ask {
        let data = || {
            let mut data = vec![0; self.length as usize];
            pattern::fill(&mut data, self.seed, slot);
            Bytes::from(data)
        };
        match self.exchange {
            Exchange::Send => Ask::Echo(data()),
            Exchange::Write => Ask::Write { slot, data: data() },
            Exchange::Read => Ask::Read {
                slot,
                length: self.length,
            },
        }
    }
}
