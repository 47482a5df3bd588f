//! What callers may use: requests, streams, bytes, and room in the store.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use super::Identity;
use crate::cas::{CasError, ErrorKind, Result};

tokio::task_local! {
    static CURRENT: Option<Allowance>;
}

/// Says what callers may use.
pub trait Quota: fmt::Debug + Send + Sync + 'static {
    /// The account of this caller; `None` if nothing limits it.
    ///
    /// Called for every call: it must not block.
    fn account(&self, caller: &Consumer<'_>) -> Option<Arc<dyn Account>>;
}

/// Who is about to use something.
#[non_exhaustive]
#[derive(Clone, Copy, Debug)]
pub struct Consumer<'a> {
    /// Who it is, where that is known.
    pub identity: Option<&'a Identity>,
    /// Where it calls from; `None` on a Unix socket.
    pub address: Option<IpAddr>,
}

/// What a caller has used, and may use yet. Methods must not block.
pub trait Account: fmt::Debug + Send + Sync + 'static {
    /// Counts a request, and a stream until [`end`](Self::end).
    ///
    /// # Errors
    /// [`Exceeded`], as an error of the store, if it is one too many.
    fn begin(&self) -> Result<()>;

    /// A stream ended.
    fn end(&self);

    /// Books bytes that moved, whether there was room for them or not.
    fn moved(&self, direction: Direction, bytes: u64);

    /// For how long nothing more should move.
    fn debt(&self, direction: Direction) -> Duration;

    /// Takes room for bytes that are about to be stored.
    ///
    /// # Errors
    /// [`Exceeded`], as an error of the store, if there isn't as much.
    fn reserve(&self, bytes: u64) -> Result<()>;

    /// Gives room back that was [reserved](Self::reserve) for what was not stored, or
    /// was there already.
    fn release(&self, bytes: u64);
}

/// Which way bytes move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// To the server.
    In,
    /// From it.
    Out,
}

/// What a limit is on.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Requests a second.
    Requests,
    /// Streams at once.
    Streams,
    /// Bytes a second.
    Bytes,
    /// Bytes newly stored in a day.
    Stored,
}

/// A caller wanted more than it may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// Of what.
    pub limit: Limit,
    /// Whose account it is: `identity:ci`, `address:10.0.0.7`.
    pub subject: String,
}

/// What one call may use; a stream of its account until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Allowance(Arc<Stream>);

#[derive(Debug)]
struct Stream(Arc<dyn Account>);

impl<'a> Consumer<'a> {
    /// A caller of this identity from this address.
    pub const fn new(identity: Option<&'a Identity>, address: Option<IpAddr>) -> Self {
        Self { identity, address }
    }

    /// The network that counts as one caller: an IPv4 address, or what is given to one
    /// site of IPv6, 64 bits.
    pub fn network(address: IpAddr) -> IpAddr {
        match address.to_canonical() {
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
            v4 => v4,
        }
    }
}

impl Allowance {
    /// Begins a call of this caller; `None` if nothing limits it.
    ///
    /// # Errors
    /// It has used up what it may. The error tells when to try again.
    pub fn begin(quota: &dyn Quota, caller: &Consumer<'_>) -> Result<Option<Self>> {
        let Some(account) = quota.account(caller) else {
            return Ok(None);
        };
        account.begin()?;
        Ok(Some(Self(Arc::new(Stream(account)))))
    }

    /// The account that it is on.
    pub fn account(&self) -> &dyn Account {
        &*self.0.0
    }

    /// What the call may use that runs in this task.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Option::clone).ok().flatten()
    }

    /// Runs a call: what it stores is booked.
    pub async fn scope<F: Future>(self, call: F) -> F::Output {
        CURRENT.scope(Some(self), call).await
    }

    /// A part of this task's call that is to become a task of its own: it books on the
    /// same account.
    pub fn inherited<F: Future>(part: F) -> impl Future<Output = F::Output> {
        Self::carried(Self::current(), part)
    }

    /// A part of a call that this is the allowance of, if it has one.
    pub fn carried<F: Future>(allowance: Option<Self>, part: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(allowance, part)
    }
}

impl Exceeded {
    /// The error that says so, and when to try again.
    pub fn into_error(self, message: impl Into<String>, retry_after: Duration) -> CasError {
        CasError::new(ErrorKind::NoSpace, message)
            .with_retry_after(retry_after)
            .with_source(self)
    }

    /// What was exceeded, if that is what went wrong.
    pub fn of(error: &CasError) -> Option<&Self> {
        error.cause()?.downcast_ref()
    }
}

impl Limit {
    /// A word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Streams => "streams",
            Self::Bytes => "bytes",
            Self::Stored => "stored",
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Error for Exceeded {}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_of_ipv6_is_one_caller() {
        let network = |text: &str| Consumer::network(text.parse().unwrap()).to_string();
        assert_eq!(network("10.1.2.3"), "10.1.2.3");
        assert_eq!(network("::ffff:10.1.2.3"), "10.1.2.3");
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }

    #[test]
    fn what_was_exceeded_can_be_told_from_a_full_disk() {
        let limit = Limit::Requests;
        let subject = "identity:ci".to_owned();
        let error = Exceeded { limit, subject }.into_error("too many", Duration::from_secs(1));
        assert_eq!(Exceeded::of(&error).unwrap().limit, limit);
        let full = CasError::new(ErrorKind::NoSpace, "full");
        assert!(Exceeded::of(&full).is_none());
    }
}
