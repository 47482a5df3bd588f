//! What is wrong with certificates, and with handshakes.

use std::error::Error;
use std::io;
use std::time::SystemTime;

use rustls::{AlertDescription, CertificateError};

use crate::cas::ErrorKind;

/// Certificates, keys or authorities that can't be used.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// There is none.
    #[error("it has no certificate in PEM (-----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    /// It is damaged, or of a kind that isn't known.
    #[error("the certificate can't be used: {0}")]
    Certificate(String),
    /// There is none.
    #[error("it has no private key in PEM (-----BEGIN PRIVATE KEY-----)")]
    NoKey,
    /// It is damaged, or of a kind that isn't known.
    #[error("the private key can't be used: {0}")]
    Key(String),
    /// The key is not that of the certificate.
    #[error("the private key is not that of the certificate")]
    KeyMismatch,
    /// It was good until then.
    #[error("the certificate expired {} ago", ago(.0))]
    Expired(SystemTime),
    /// It is good from then on.
    #[error("the certificate is not valid yet, but in {} (is the clock right?)", ahead(.0))]
    NotYetValid(SystemTime),
    /// Certificates of clients are wanted, and there is no authority to check them by.
    #[error("certificates of clients are wanted, and no authority is named to check them by")]
    NoClientAuthority,
    /// This machine trusts nobody.
    #[error("this machine has no authorities that it trusts{0}")]
    NoAuthorities(String),
    /// A name that no certificate can have.
    #[error("{0:?} is not a name that a certificate can have")]
    ServerName(String),
    /// The library refuses.
    #[error("{0}")]
    Other(String),
}

/// The TLS error inside an I/O error.
pub(crate) fn cause(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// What a failed handshake, or a connection that the peer ended by an alert, means to who
/// connects.
pub(crate) fn explain(error: &io::Error) -> (ErrorKind, String) {
    use CertificateError as Cert;
    use rustls::Error as Tls;
    let untrusted = |text: String| (ErrorKind::Untrusted, text);
    match cause(error) {
        Some(Tls::InvalidCertificate(Cert::UnknownIssuer | Cert::BadSignature)) => untrusted(
            "the server's certificate is from no authority that is trusted here: name its \
             authority's certificate as tls-ca"
                .to_owned(),
        ),
        Some(Tls::InvalidCertificate(why @ (Cert::Expired | Cert::ExpiredContext { .. }))) => {
            untrusted(format!("the server's certificate has expired: {why}"))
        }
        Some(Tls::InvalidCertificate(
            why @ (Cert::NotValidYet | Cert::NotValidYetContext { .. }),
        )) => untrusted(format!(
            "the server's certificate is not valid yet (is the clock right?): {why}"
        )),
        Some(Tls::InvalidCertificate(
            why @ (Cert::NotValidForName | Cert::NotValidForNameContext { .. }),
        )) => untrusted(format!(
            "the server's certificate is for another name ({why}): connect by a name that it \
             has, or tell that name as tls-server-name"
        )),
        Some(Tls::InvalidCertificate(why)) => {
            untrusted(format!("the server's certificate can't be trusted: {why}"))
        }
        Some(Tls::AlertReceived(alert)) => refused(*alert),
        Some(Tls::InvalidMessage(_)) => (
            ErrorKind::Unsupported,
            "the server doesn't speak TLS: use http://".to_owned(),
        ),
        Some(Tls::PeerIncompatible(why)) => (
            ErrorKind::Unsupported,
            format!("the server speaks no TLS that this client can: {why:?}"),
        ),
        Some(other) => (ErrorKind::Unavailable, format!("TLS failed: {other}")),
        None if ended(error.kind()) => (
            ErrorKind::Unavailable,
            "the server ended the connection within the TLS handshake: is it one that doesn't \
             speak TLS (http://), or has too many connections?"
                .to_owned(),
        ),
        None => {
            let mut text = error.to_string();
            if let Some(source) = error.get_ref().and_then(Error::source) {
                text = format!("{text}: {source}");
            }
            (ErrorKind::Unavailable, text)
        }
    }
}

fn ended(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        kind,
        UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe
    )
}

/// What a server that ends the connection with this alert wants.
fn refused(alert: AlertDescription) -> (ErrorKind, String) {
    use AlertDescription as Alert;
    match alert {
        Alert::CertificateRequired => (
            ErrorKind::Untrusted,
            "the server wants a certificate of this client: give one, with its key, as \
             client-cert and client-key"
                .to_owned(),
        ),
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied
        | Alert::DecryptError => (
            ErrorKind::Untrusted,
            format!("the server doesn't accept this client's certificate ({alert:?})"),
        ),
        Alert::NoApplicationProtocol => (
            ErrorKind::Unsupported,
            "the server doesn't speak gRPC at this port: is it that of its HTTP cache?".to_owned(),
        ),
        Alert::UnrecognisedName => (
            ErrorKind::Untrusted,
            "the server has no certificate for this name".to_owned(),
        ),
        _ => (
            ErrorKind::Unavailable,
            format!("the server refused TLS ({alert:?})"),
        ),
    }
}

fn ago(time: &SystemTime) -> String {
    rounded(time.elapsed().unwrap_or_default())
}

fn ahead(time: &SystemTime) -> String {
    rounded(time.duration_since(SystemTime::now()).unwrap_or_default())
}

fn rounded(time: std::time::Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_tells_what_to_do() {
        let explained = |error: rustls::Error| {
            let (kind, text) = explain(&io::Error::new(io::ErrorKind::InvalidData, error));
            assert!(!text.is_empty());
            (kind, text)
        };
        let (kind, text) = explained(rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer,
        ));
        assert_eq!(kind, ErrorKind::Untrusted);
        assert!(text.contains("tls-ca"), "{text}");
        let (kind, text) = explained(rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired,
        ));
        assert_eq!(kind, ErrorKind::Untrusted);
        assert!(text.contains("client-cert"), "{text}");
        let (kind, text) = explained(rustls::Error::InvalidMessage(
            rustls::InvalidMessage::InvalidContentType,
        ));
        assert_eq!(kind, ErrorKind::Unsupported);
        assert!(text.contains("http://"), "{text}");
    }
}
