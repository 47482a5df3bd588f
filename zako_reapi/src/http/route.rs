//! Which resource a request is for.

use std::net::IpAddr;
use std::sync::Arc;

use http::request::Parts;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;

use zako_core::access::{Allowance, Caller, Direction, Pace};

use super::Shared;
use super::answer::{self, Answer};
use super::body::RequestBody;
use super::connection::Busy;
use super::decode::Content;
use super::path::{Resource, resource};
use super::refusal::Refusal;
use super::{actions, blobs, dav, status};

const HINT: &str = "This is Zako's HTTP cache: /[instance/]cas/<hash>, /[instance/]ac/<hash>, \
                    /dav/<path>, /status";

/// What can be done with the pages about the cache itself.
const READ: &str = "GET, HEAD, OPTIONS";

/// The methods that mean something somewhere here, or in HTTP at large.
const KNOWN: [&str; 11] = [
    "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PROPFIND", "MKCOL", "POST", "PATCH", "TRACE",
    "CONNECT",
];

/// Answers a request.
pub(super) async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
    address: Option<IpAddr>,
    busy: Busy,
) -> Answer {
    let (head, body) = request.into_parts();
    let body = RequestBody::new(&head, body, shared.options.body_idle_timeout);
    let mut content = Some(Content::new(body));
    let allowance = allow(&shared, &head, address);
    let (routed, pace) = match allowance {
        Ok(None) => (routed(&shared, &head, &mut content).await, None),
        Ok(Some(allowance)) => {
            let pace = |direction| Some(Pace::new(allowance.clone(), direction));
            if let Some(content) = &mut content {
                content.body.pace = pace(Direction::In);
            }
            let routed = routed(&shared, &head, &mut content);
            (allowance.clone().scope(routed).await, pace(Direction::Out))
        }
        Err(refusal) => (Err(refusal), None),
    };
    let answer = match routed {
        Ok(answer) => answer,
        Err(refusal) => {
            if let Some(content) = &mut content {
                content.body.linger().await;
            }
            refusal.answer()
        }
    };
    answer::finish(answer, head.method == Method::HEAD, pace, busy)
}

/// What the request may use, if that is limited.
fn allow(
    shared: &Shared,
    head: &Parts,
    address: Option<IpAddr>,
) -> Result<Option<Allowance>, Refusal> {
    let Some(quota) = &shared.quota else {
        return Ok(None);
    };
    let caller = Caller::new(head.extensions.get(), address);
    Ok(Allowance::begin(&**quota, &caller)?)
}

async fn routed(
    shared: &Arc<Shared>,
    head: &Parts,
    content: &mut Option<Content>,
) -> Result<Answer, Refusal> {
    if !KNOWN.contains(&head.method.as_str()) {
        let text = format!("the method {} is not known here", head.method);
        return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, text));
    }
    if head.method == Method::OPTIONS && head.uri.path() == "*" {
        return Ok(answer::options(READ, None));
    }
    if head.method == Method::PUT
        && let Some(content) = content
    {
        content.read_as(head, &shared.windows)?;
    }
    match resource(head.uri.path())? {
        Resource::Hint => read(head, || answer::text(StatusCode::OK, HINT)),
        Resource::Status => {
            let status = status::answer(shared).await;
            read(head, || status)
        }
        Resource::Blob(name) => blobs::answer(shared, head, name, content).await,
        Resource::Action(name) => actions::answer(shared, head, &name, content).await,
        Resource::Value(path) => dav::answer(shared, head, &path, content).await,
    }
}

fn read(head: &Parts, answer: impl FnOnce() -> Answer) -> Result<Answer, Refusal> {
    match head.method {
        Method::GET | Method::HEAD => Ok(answer()),
        Method::OPTIONS => Ok(answer::options(READ, None)),
        _ => Err(Refusal::method(READ)),
    }
}
