//! From a request to its answer.

use http::header::{self, HeaderValue};
use http::{Method, Request, StatusCode};
use zako_core::access::{Authorizer, Role};
use zako_core::negotiate::Peer;

use super::Shared;
use super::answer::{self, Answer};
use super::host::{self, BadHost};
use crate::page;
use crate::readiness::{Readiness, State};

/// Answers a request; its body is not looked at.
pub(super) async fn answer<B>(shared: &Shared, peer: &Peer, request: &Request<B>) -> Answer {
    match host::check(request, &shared.options.names) {
        Ok(()) => {}
        Err(BadHost::Malformed) => {
            return answer::line(StatusCode::BAD_REQUEST, "one Host header is needed");
        }
        Err(BadHost::Unknown) => {
            return answer::line(
                StatusCode::MISDIRECTED_REQUEST,
                "this server doesn't know itself by that name: ask by its address, or \
                 configure the name (--admin-host)",
            );
        }
    }
    let path = request.uri().path();
    let is_known = matches!(
        path,
        "/" | "/healthz" | "/readyz" | "/metrics" | "/status.json"
    );
    if !is_known {
        return answer::line(StatusCode::NOT_FOUND, "nothing is here");
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut answer = answer::line(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only");
        let allow = HeaderValue::from_static("GET, HEAD");
        answer.headers_mut().insert(header::ALLOW, allow);
        return answer;
    }
    // Who asks by a load balancer has no name, and learns no more than a state.
    match path {
        "/healthz" => return answer::line(StatusCode::OK, "ok"),
        "/readyz" => return ready(&shared.readiness),
        _ => {}
    }
    let authorizer = shared.sources.read().authorizer.clone();
    if let Some(authorizer) = authorizer
        && let Err(refusal) = authorize(&*authorizer, peer, request)
    {
        return *refusal;
    }
    match path {
        "/metrics" => metrics(shared).await,
        "/status.json" => {
            // Has no maps with keys that aren't text.
            let json = serde_json::to_vec(&shared.status().await).unwrap_or_default();
            answer::of(StatusCode::OK, answer::JSON, json)
        }
        _ => {
            let refresh = request.uri().query().and_then(refresh);
            answer::page(page::page(&shared.status().await, refresh))
        }
    }
}

/// The number of `refresh=15`.
fn refresh(query: &str) -> Option<u32> {
    let mut pairs = query.split('&');
    pairs.find_map(|pair| pair.strip_prefix("refresh=")?.parse().ok())
}

fn ready(readiness: &Readiness) -> Answer {
    let (state, reason) = readiness.reason();
    let status = match state {
        State::Ready => StatusCode::OK,
        State::Opening | State::Draining => StatusCode::SERVICE_UNAVAILABLE,
    };
    answer::line(status, &reason)
}

async fn metrics(shared: &Shared) -> Answer {
    let metrics = shared.sources.read().metrics.clone();
    match metrics {
        Some(metrics) => {
            let text = metrics.render().await;
            answer::of(StatusCode::OK, answer::PROMETHEUS, text)
        }
        None => answer::line(StatusCode::NOT_FOUND, "no metrics are gathered"),
    }
}

/// Whether the caller may look: one of this machine always, others as admins.
fn authorize<B>(
    authorizer: &dyn Authorizer,
    peer: &Peer,
    request: &Request<B>,
) -> Result<(), Box<Answer>> {
    if peer.is_local() {
        return Ok(());
    }
    let mut credentials = peer.credentials();
    let authorization = request.headers().get(header::AUTHORIZATION);
    credentials.authorization = authorization.map(HeaderValue::as_bytes);
    match authorizer.identify(&credentials) {
        Ok(identity) if identity.allows("", Role::Admin) => Ok(()),
        // Who shows nothing may have more to show.
        Ok(_) if authorization.is_some() => Err(Box::new(answer::line(
            StatusCode::FORBIDDEN,
            "this needs the role of an admin",
        ))),
        _ => {
            let mut refusal = answer::line(
                StatusCode::UNAUTHORIZED,
                "this needs the token of an admin: Authorization: Bearer TOKEN",
            );
            let scheme = HeaderValue::from_static("Bearer realm=\"zako\"");
            let headers = refusal.headers_mut();
            headers.insert(header::WWW_AUTHENTICATE, scheme);
            Err(Box::new(refusal))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use parking_lot::RwLock;
    use zako_core::access::{Credentials, Identity, Rights};
    use zako_core::cas::{CasError, ErrorKind, Result};
    use zako_core::negotiate::PeerAddr;

    use super::super::{AdminOptions, Sources};
    use super::*;

    /// Knows an admin and a reader by their tokens, and nobody else.
    #[derive(Debug)]
    struct Two;

    impl Authorizer for Two {
        fn identify(&self, credentials: &Credentials<'_>) -> Result<Identity> {
            let role = match credentials.authorization {
                Some(b"Bearer admin") => Role::Admin,
                Some(b"Bearer reader") | None => Role::Read,
                Some(_) => return Err(CasError::new(ErrorKind::Unauthenticated, "unknown")),
            };
            Ok(Identity::new("x", Rights::everywhere(role)))
        }
    }

    /// What a caller from there, with this token, gets at this path.
    async fn asked(authorizer: bool, remote: &str, token: Option<&str>, path: &str) -> u16 {
        let shared = Shared {
            options: AdminOptions::default(),
            readiness: Readiness::new(),
            began: Instant::now(),
            sources: RwLock::new(Sources {
                authorizer: authorizer.then(|| Arc::new(Two) as Arc<dyn Authorizer>),
                ..Sources::default()
            }),
        };
        let peer = Peer::new(PeerAddr::Tcp {
            local: "10.0.0.1:7422".parse().unwrap(),
            remote: remote.parse().unwrap(),
        });
        let mut request = Request::builder().uri(path).header("host", "10.0.0.1");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let answer = answer(&shared, &peer, &request.body(()).unwrap()).await;
        answer.status().as_u16()
    }

    #[tokio::test]
    async fn callers_of_other_machines_need_the_role_of_an_admin() {
        let (far, near) = ("10.0.0.7:1", "127.0.0.1:1");
        for path in ["/", "/status.json"] {
            assert_eq!(asked(true, far, None, path).await, 401);
            assert_eq!(asked(true, far, Some("wrong"), path).await, 401);
            assert_eq!(asked(true, far, Some("reader"), path).await, 403);
            assert_eq!(asked(true, far, Some("admin"), path).await, 200);
            assert_eq!(asked(true, near, None, path).await, 200);
            assert_eq!(asked(false, far, None, path).await, 200);
        }
        // Nothing is there yet, but nobody else learns that.
        assert_eq!(asked(true, far, None, "/metrics").await, 401);
        assert_eq!(asked(true, far, Some("admin"), "/metrics").await, 404);
    }

    #[tokio::test]
    async fn health_is_for_everyone() {
        assert_eq!(asked(true, "10.0.0.7:1", None, "/healthz").await, 200);
        assert_eq!(
            asked(true, "10.0.0.7:1", Some("wrong"), "/readyz").await,
            503
        );
    }
}
