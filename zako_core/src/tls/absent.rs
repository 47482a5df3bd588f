//! What stands for TLS where it isn't built in.

/// There is none.
#[derive(Clone, Debug)]
pub(crate) enum TlsAcceptor {}

/// There is none.
#[derive(Clone, Debug)]
pub(crate) enum TlsConnector {}

/// What is spoken inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Application {
    Http2,
    Http1,
}
