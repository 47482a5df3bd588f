//! The task that runs a session: it alone touches the endpoint and the control stream.

mod transfers;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use crate::fabric::{Completion, Fabric, FabricError, FailureKind, Work};
use crate::session::budget::Budget;
use crate::session::error::SessionError;
use crate::session::exposing::Exposing;
use crate::session::handshake::Setup;
use crate::session::hello::Hello;
use crate::session::link::{Command, Link, Parts, Progress};
use crate::session::message::{Message, Role};
use crate::session::options::SessionOptions;
use crate::session::pulling::{Piece, Pulling, Read};
use crate::session::server::Request;
use crate::session::shares::{NoSlot, Share, Shared, Shares};
use crate::session::state::Verdict;
use crate::session::trace::TraceContext;
use crate::session::wire::Control;

/// Messages that a peer may leave unread beside those that slots and transfers make.
const UNREAD: usize = 1024;

/// READs that are posted before a look at what has ended. A driver in software may do all of
/// a READ while it is posted: with one there would be a pause after each, and if all that are
/// granted were posted first, the peer would have no slot to fill until the last is read.
const POSTS: usize = 3;

/// Messages and commands that are taken before a look at what has ended.
const EVENTS: usize = 32;

/// A session whose ends have read each other's memory.
struct Driver<'a, R: Role> {
    setup: &'a mut Setup<R>,
    peer: Hello,
    parts: Arc<Parts>,
    commands: mpsc::UnboundedReceiver<Command>,
    /// For the handles of what the peer asks for.
    way: mpsc::WeakUnboundedSender<Command>,
    requests: Option<mpsc::UnboundedSender<Request>>,
    /// The trace of a transfer that is to begin.
    trace: Option<(u64, TraceContext)>,
    pulls: BTreeMap<u64, Pulling>,
    exposes: BTreeMap<u64, Exposing>,
    /// READs under way, in the order of their posting, which is that of their end.
    reads: VecDeque<Reading>,
    next_work: u64,
    /// READs that may be under way.
    window: usize,
    /// The transfer that posted last.
    turn: u64,
    /// The last number of a transfer that the peer began.
    last_begun: u64,
    /// Transfers there may be.
    transfers: usize,
    /// When something moved last.
    moved: Instant,
    clock: Interval,
    /// Looks at the completions before it sleeps.
    polls: u32,
}

struct Reading {
    work: u64,
    transfer: u64,
    length: u32,
    /// Whether nothing of its grant is left.
    whole: bool,
    share: Share,
    since: Instant,
}

enum Event {
    Message(Message),
    /// `None` when nobody can give one any more.
    Command(Option<Command>),
    /// Something may have been completed, or a slot come back.
    Progress,
    Tick,
}

/// Sets a session up and runs it in a task of its own.
pub(super) async fn start<R: Role>(
    fabric: Arc<dyn Fabric>,
    control: Control<R>,
    options: SessionOptions,
    budget: &Budget,
    requests: Option<mpsc::UnboundedSender<Request>>,
) -> Result<Link, SessionError> {
    let slots = options.exposed_slots as usize + options.pull_slots as usize;
    let unread = UNREAD + 4 * (slots + options.transfers as usize);
    let setup = Setup::new(fabric, control, options, budget, unread);
    let (opened, open) = oneshot::channel();
    tokio::spawn(run(setup, requests, opened));
    open.await
        .unwrap_or_else(|_| Err(SessionError::Internal("the session's task died".to_owned())))
}

async fn run<R: Role>(
    mut setup: Setup<R>,
    requests: Option<mpsc::UnboundedSender<Request>>,
    mut opened: oneshot::Sender<Result<Link, SessionError>>,
) {
    let peer = tokio::select! {
        biased;
        () = opened.closed() => Err(SessionError::Closed),
        peer = setup.run() => peer,
    };
    let (progress, watched) = watch::channel(Progress::Open);
    let (sender, commands) = mpsc::unbounded_channel();
    let ready = peer.and_then(|peer| Ok((peer, parts(&setup, &peer, watched)?)));
    let (peer, parts) = match ready {
        Ok(ready) => ready,
        Err(error) => {
            tracing::debug!(%error, "an RDMA session was not set up");
            let _gone = opened.send(Err(error.clone()));
            return setup.end(&error).await;
        }
    };
    let way = sender.downgrade();
    let link = Link {
        commands: sender,
        parts: Arc::clone(&parts),
    };
    let mut driver = Driver::new(&mut setup, peer, parts, commands, way, requests);
    // If nobody is there to take it, the last sender is gone with it.
    let _gone = opened.send(Ok(link));
    let error = driver.serve().await;
    tracing::debug!(%error, "an RDMA session ends");
    progress.send_replace(Progress::Ended(error.clone()));
    // The card serves the peer nothing from here on, so slots may go to others; and who
    // pulls or exposes learns it at once.
    let Driver {
        pulls,
        exposes,
        reads,
        commands,
        requests,
        ..
    } = driver;
    if let Some(card) = &mut setup.card
        && let Err(error) = card.endpoint.fail()
    {
        tracing::warn!(%error, "a queue pair could not be taken to Error");
    }
    drop((requests, commands, pulls, exposes, reads));
    setup.end(&error).await;
    progress.send_replace(Progress::Freed(error));
}

fn parts<R: Role>(
    setup: &Setup<R>,
    peer: &Hello,
    progress: watch::Receiver<Progress>,
) -> Result<Arc<Parts>, SessionError> {
    let card = setup.card.as_ref().ok_or_else(no_card)?;
    let options = &setup.options;
    let transfers = options.transfers().min(peer.transfers) as usize;
    let grant_bytes = peer.grant_bytes.min(card.hello.grant_bytes) as usize;
    Ok(Arc::new(Parts {
        exposed: Arc::clone(&card.exposed),
        local: Arc::clone(&card.local),
        exposed_shares: Shares::new(options.exposed_slots as usize, transfers),
        pull_shares: Shares::new(options.pull_slots as usize, transfers),
        lent: Arc::new(Semaphore::new(options.lent_slots as usize)),
        grant_bytes,
        transfers: Arc::new(Semaphore::new(transfers)),
        progress,
    }))
}

impl<'a, R: Role> Driver<'a, R> {
    fn new(
        setup: &'a mut Setup<R>,
        peer: Hello,
        parts: Arc<Parts>,
        commands: mpsc::UnboundedReceiver<Command>,
        way: mpsc::WeakUnboundedSender<Command>,
        requests: Option<mpsc::UnboundedSender<Request>>,
    ) -> Self {
        let options = &setup.options;
        // One on the wire and one behind it, so that the card never waits for this task.
        let own = setup.fabric.limits().reads_out;
        let window = 2 * usize::from(own.min(peer.address.reads_in)).max(1);
        let depth = options.endpoint.depth as usize;
        let mut clock = interval((options.read_timeout / 2).max(Duration::from_millis(1)));
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            window: window.min(options.reads).min(depth).max(1),
            transfers: options.transfers().min(peer.transfers) as usize,
            moved: Instant::now(),
            clock,
            polls: 0,
            setup,
            peer,
            parts,
            commands,
            way,
            requests,
            trace: None,
            pulls: BTreeMap::new(),
            exposes: BTreeMap::new(),
            reads: VecDeque::new(),
            // 0 was the check's.
            next_work: 1,
            turn: 0,
            last_begun: 0,
        }
    }

    /// Runs the session; why it ends.
    async fn serve(&mut self) -> SessionError {
        let mut completions = Vec::new();
        loop {
            if let Err(error) = self.turn(&mut completions).await {
                return error;
            }
        }
    }

    async fn turn(&mut self, completions: &mut Vec<Completion>) -> Result<(), SessionError> {
        let mut posted = 0;
        while posted < POSTS && self.post_read()? {
            posted += 1;
        }
        let completed = self.take_completions(completions)?;
        if completed {
            // Who takes the bytes is next in line on this very thread, where no other one takes
            // it over, and would wait for all that can be posted.
            tokio::task::yield_now().await;
        }
        // What is granted is to be known before anything is posted, and what was read is told
        // at once, so all that came is taken. Not more: completions wait meanwhile.
        let mut more = posted > 0 || completed;
        for _ in 0..EVENTS {
            match self.event(more).await? {
                Event::Message(message) => self.on_message(message)?,
                Event::Command(command) => self.on_command(command)?,
                Event::Progress => break,
                Event::Tick => return self.on_tick(),
            }
            self.moved = Instant::now();
            more = true;
        }
        Ok(())
    }

    /// What is next; [`Event::Progress`] at once if nothing is and there is more to do.
    async fn event(&mut self, more: bool) -> Result<Event, SessionError> {
        let Some(card) = &mut self.setup.card else {
            return Err(no_card());
        };
        // As long as completions come quickly, sleeping costs more than looking.
        let look = !self.reads.is_empty() && self.polls > 0;
        let sleep = !more && !look;
        tokio::select! {
            biased;
            message = self.setup.wire.next() => message.map(Event::Message),
            command = self.commands.recv() => Ok(Event::Command(command)),
            () = self.parts.pull_shares.returned() => Ok(Event::Progress),
            _ = self.clock.tick() => Ok(Event::Tick),
            () = std::future::ready(()), if more => Ok(Event::Progress),
            () = tokio::task::yield_now(), if look => {
                self.polls -= 1;
                Ok(Event::Progress)
            }
            ready = futures::future::poll_fn(|context| card.endpoint.poll_ready(context)), if sleep => {
                ready?;
                Ok(Event::Progress)
            }
        }
    }

    /// Posts a READ if there is a slot and room in the window for one, transfers in turn;
    /// whether there was.
    fn post_read(&mut self) -> Result<bool, SessionError> {
        if self.reads.len() >= self.window {
            return Ok(false);
        }
        let Some((transfer, read)) = self.next_read() else {
            return Ok(false);
        };
        let card = self.setup.card.as_mut().ok_or_else(no_card)?;
        let Ok(Read { part, whole, slots }) = read else {
            return Err(SessionError::Internal("a READ without a slot".to_owned()));
        };
        let address = self.peer.memory.part(part.offset, part.length.into());
        let Some(address) = address else {
            return Err(SessionError::Internal("a READ beyond a grant".to_owned()));
        };
        let Shared { slot: into, share } = slots;
        let work = self.next_work;
        self.next_work += 1;
        self.setup.lifecycle.posted()?;
        let posted = card.endpoint.post(
            work,
            Work::Read {
                into,
                length: part.length,
                address,
                key: self.peer.memory.key,
            },
        );
        if let Err((error, _slot)) = posted {
            self.setup.lifecycle.refused()?;
            return Err(self.setup.lifecycle.failed(error).into());
        }
        self.reads.push_back(Reading {
            work,
            transfer,
            length: part.length,
            whole,
            share,
            since: Instant::now(),
        });
        Ok(true)
    }

    fn next_read(&mut self) -> Option<(u64, Result<Read, NoSlot>)> {
        let turn = self.turn;
        for transfers in [
            (Bound::Excluded(turn), Bound::Unbounded),
            (Bound::Unbounded, Bound::Included(turn)),
        ] {
            for (transfer, pulling) in self.pulls.range_mut(transfers) {
                if let Some(read) = pulling.next_read(&self.parts.local) {
                    self.turn = *transfer;
                    return Some((*transfer, read));
                }
            }
        }
        None
    }

    /// Takes what has been completed; whether there was something.
    fn take_completions(
        &mut self,
        completions: &mut Vec<Completion>,
    ) -> Result<bool, SessionError> {
        let card = self.setup.card.as_mut().ok_or_else(no_card)?;
        let polled = card.endpoint.poll(completions);
        let some = !completions.is_empty();
        // All of them are counted, also behind one that ends the session.
        let mut outcome = polled.map_err(SessionError::from);
        for completion in completions.drain(..) {
            let taken = self.on_completion(completion);
            outcome = outcome.and(taken);
        }
        outcome?;
        if some {
            self.moved = Instant::now();
            self.polls = self.setup.options.polls;
            let pulls: Vec<u64> = self.pulls.keys().copied().collect();
            for transfer in pulls {
                self.settle_pull(transfer)?;
            }
        }
        Ok(some)
    }

    fn on_completion(&mut self, completion: Completion) -> Result<(), SessionError> {
        let Completion { id, outcome, slot } = completion;
        let verdict = self.setup.lifecycle.completed(outcome)?;
        let reading = self.reads.pop_front().filter(|reading| reading.work == id);
        match (verdict, reading) {
            (Verdict::Failed(error), _) => Err(error.into()),
            (Verdict::Good(length), Some(reading)) if length == reading.length => {
                let Reading {
                    transfer,
                    whole,
                    share,
                    ..
                } = reading;
                if let Some(pulling) = self.pulls.get_mut(&transfer) {
                    let piece = Piece {
                        slot,
                        length,
                        share,
                    };
                    pulling.on_read(piece, whole);
                }
                Ok(())
            }
            (Verdict::Good(_), _) => Err(self.broken("a READ ended out of turn or short")),
            (Verdict::Ignored, _) => Ok(()),
        }
    }

    fn on_tick(&mut self) -> Result<(), SessionError> {
        let options = &self.setup.options;
        let lost = self
            .reads
            .front()
            .is_some_and(|reading| reading.since.elapsed() >= options.read_timeout);
        if lost {
            return Err(self.broken("a READ was never completed"));
        }
        match options.idle_timeout {
            Some(limit) if self.moved.elapsed() >= limit => Err(SessionError::Timeout(format!(
                "nothing moved on the RDMA session for {limit:?}"
            ))),
            _ => Ok(()),
        }
    }

    fn broken(&mut self, what: &str) -> SessionError {
        let error = FabricError::new(FailureKind::Device, what);
        self.setup.lifecycle.failed(error).into()
    }
}

fn no_card() -> SessionError {
    SessionError::Internal("a session without a card".to_owned())
}
