//! What each call shows the server of who makes it.

use std::net::SocketAddr;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::ClientOptions;
use super::url::ServerUrl;
use crate::cas::{CasError, ErrorKind, Result};

const NAMESPACE: HeaderName = HeaderName::from_static("zako-namespace");

/// The headers that all calls of a connection have.
#[derive(Clone, Debug)]
pub(super) struct CallCredentials {
    authorization: Option<HeaderValue>,
    namespace: Option<HeaderValue>,
}

impl CallCredentials {
    /// Those of a client with these options.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if they can't be headers.
    pub(super) fn of(options: &ClientOptions) -> Result<Self> {
        let wrong = |what: &str| {
            let message = format!("{what} has other than visible ASCII characters");
            CasError::new(ErrorKind::InvalidArgument, message)
        };
        let authorization = options.token.as_ref().map(|token| {
            let value = HeaderValue::from_str(&format!("Bearer {}", token.expose()));
            let mut value = value.map_err(|_| wrong("the token"))?;
            // In no log, and in no table of a proxy.
            value.set_sensitive(true);
            Ok::<_, CasError>(value)
        });
        let namespace = (!options.namespace.is_empty())
            .then(|| HeaderValue::from_str(&options.namespace).map_err(|_| wrong("the namespace")));
        Ok(Self {
            authorization: authorization.transpose()?,
            namespace: namespace.transpose()?,
        })
    }

    /// Adds them to a call.
    pub(super) fn add_to(&self, headers: &mut HeaderMap) {
        if let Some(value) = &self.authorization {
            headers.insert(AUTHORIZATION, value.clone());
        }
        if let Some(value) = &self.namespace {
            headers.insert(NAMESPACE, value.clone());
        }
    }
}

/// Refuses to show a token to a peer over a connection that is not encrypted and leaves
/// this machine.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] says what to do instead.
pub(super) fn check_plaintext(
    url: &ServerUrl,
    peer: SocketAddr,
    options: &ClientOptions,
) -> Result<()> {
    let is_local = peer.ip().to_canonical().is_loopback();
    if options.token.is_none() || options.allow_plaintext_token || is_local {
        return Ok(());
    }
    Err(CasError::new(
        ErrorKind::InvalidArgument,
        format!(
            "the token is not sent to {url}: everyone on the way could read it. Use https://, or \
             allow it (allow-plaintext-token) in a network where that doesn't matter"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Secret;

    #[test]
    fn a_token_leaves_this_machine_only_if_that_is_allowed() {
        let mut options = ClientOptions::default();
        let url: ServerUrl = "cache:7420".parse().unwrap();
        let check = |peer: &str, options: &ClientOptions| {
            check_plaintext(&url, peer.parse().unwrap(), options)
        };
        check("10.0.0.1:7420", &options).unwrap();
        options.token = Some(Secret::new("hunter2"));
        check("127.0.0.1:7420", &options).unwrap();
        check("[::ffff:127.0.0.1]:7420", &options).unwrap();
        let error = check("10.0.0.1:7420", &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(!error.to_string().contains("hunter2"));
        options.allow_plaintext_token = true;
        check("10.0.0.1:7420", &options).unwrap();
    }

    #[test]
    fn what_is_no_header_is_refused_without_being_shown() {
        let mut options = ClientOptions {
            token: Some(Secret::new("hunter2\n")),
            ..ClientOptions::default()
        };
        let error = CallCredentials::of(&options).unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"));
        options.token = Some(Secret::new("hunter2"));
        let credentials = CallCredentials::of(&options).unwrap();
        assert!(!format!("{credentials:?} {options:?}").contains("hunter2"));
        let mut headers = HeaderMap::new();
        credentials.add_to(&mut headers);
        assert_eq!(headers[AUTHORIZATION], "Bearer hunter2");
        assert!(!format!("{headers:?}").contains("hunter2"));
    }
}
