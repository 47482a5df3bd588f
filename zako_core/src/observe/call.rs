//! Calls and what they ask for.

use std::time::Duration;

use crate::access::Identity;

/// The way into a server that a call came by.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interface {
    /// The services of `zako.v1`, over gRPC.
    Zako,
    /// The bytes of `zako.v1` that move over RDMA.
    Rdma,
    /// The Remote Execution API, over gRPC.
    RemoteExecution,
    /// The HTTP cache.
    Http,
    /// The admin port.
    Admin,
}

/// What a call does, for those who compare latencies.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallKind {
    /// One answer, with bytes in proportion to its request.
    Short,
    /// A stream of bytes: how long it takes is its size.
    Stream,
}

/// A call that has ended.
#[non_exhaustive]
#[derive(Clone, Copy, Debug)]
pub struct CallEnd<'a> {
    /// The way that it came by.
    pub interface: Interface,
    /// `/package.Service/Method`, or the method of HTTP; `other` for what no service
    /// knows, so that strangers can't make up names without end.
    pub method: &'a str,
    /// What it does.
    pub kind: CallKind,
    /// The code of gRPC by number (0 to 16), or the status of HTTP.
    pub code: u16,
    /// From its first byte to its end.
    pub duration: Duration,
    /// Bytes of its request's body.
    pub received: u64,
    /// Bytes of its answer's body.
    pub sent: u64,
    /// Who called, where it is known.
    pub identity: Option<&'a Identity>,
    /// The caller's address, without its port: `10.0.0.7`, `unix`.
    pub peer: &'a str,
}

/// Things that were looked for at once.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The way that the question came by.
    pub interface: Interface,
    /// `blob`, `action`, `asset`.
    pub what: &'static str,
    /// How many were there.
    pub hits: u64,
    /// How many were not.
    pub misses: u64,
}

impl Interface {
    /// A word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Zako => "zako",
            Self::Rdma => "rdma",
            Self::RemoteExecution => "reapi",
            Self::Http => "http",
            Self::Admin => "admin",
        }
    }
}

impl<'a> CallEnd<'a> {
    /// A call that ended well, without bytes.
    pub const fn new(interface: Interface, method: &'a str) -> Self {
        Self {
            interface,
            method,
            kind: CallKind::Short,
            code: 0,
            duration: Duration::ZERO,
            received: 0,
            sent: 0,
            identity: None,
            peer: "",
        }
    }
}

impl Lookup {
    /// Of `hits` and `misses`.
    pub const fn new(interface: Interface, what: &'static str, hits: u64, misses: u64) -> Self {
        Self {
            interface,
            what,
            hits,
            misses,
        }
    }
}
