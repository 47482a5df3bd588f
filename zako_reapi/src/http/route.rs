//! Which resource a request is for.

use std::sync::Arc;

use http::request::Parts;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use zako_core::access::{Allowance, Consumer, Direction, Identity, Pace};
use zako_core::cas::Result as CasResult;
use zako_core::negotiate::{Caller, Peer};

use super::Shared;
use super::answer::{self, Answer};
use super::body::RequestBody;
use super::connection::Busy;
use super::decode::Content;
use super::meter::Meter;
use super::path::{Resource, resource};
use super::refusal::Refusal;
use super::{actions, blobs, dav, rights, status};

const HINT: &str = "This is Zako's HTTP cache: /[instance/]cas/<hash>, /[instance/]ac/<hash>, \
                    /[instance/]dav/<path>, /status";

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
    peer: Arc<Peer>,
    busy: Busy,
) -> Answer {
    let (mut head, body) = request.into_parts();
    let caller = Caller::of(shared.authorizer.as_ref(), &peer, &head.headers);
    let caller = caller.and_then(|caller| caller.identity());
    if let Ok(Some(identity)) = &caller {
        head.extensions.insert(identity.clone());
    }
    let allowance = allow(&shared, &head, &peer);
    let observer = shared.observer.clone();
    let meter = observer.map(|observer| Meter::new(observer, &head, peer));
    let body = RequestBody::new(&head, body, shared.options.body_idle_timeout);
    let body = body.metered(meter.clone());
    let mut content = Some(Content::new(body));
    let resource = resource(head.uri.path());
    let looked_for = resource.as_ref().ok().and_then(looked_for);
    let mut pace = None;
    let routed = match allowance {
        Ok(allowance) => {
            let paced = |direction| Some(Pace::new(allowance.clone()?, direction));
            if let Some(content) = &mut content {
                content.body.pace = paced(Direction::In);
            }
            pace = paced(Direction::Out);
            // An allocation, since what is some 2 KiB would be moved several times on its way
            // into the connection.
            let routed = Box::pin(routed(&shared, caller, resource, &head, &mut content));
            match allowance {
                Some(allowance) => allowance.scope(routed).await,
                None => routed.await,
            }
        }
        Err(refusal) => Err(refusal),
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
    if let Some(meter) = &meter {
        meter.answered(answer.status(), looked_for);
    }
    let answer = answer.map(|body| body.paced(pace));
    answer::finish(answer, head.method == Method::HEAD, busy, meter)
}

/// What the request may use, if that is limited.
fn allow(shared: &Shared, head: &Parts, peer: &Peer) -> Result<Option<Allowance>, Refusal> {
    let Some(quota) = &shared.quota else {
        return Ok(None);
    };
    let consumer = Consumer::new(head.extensions.get(), peer.ip());
    Ok(Allowance::begin(&**quota, &consumer)?)
}

/// What a request looks for, if it is something that is stored.
fn looked_for(resource: &Resource) -> Option<&'static str> {
    match resource {
        Resource::Hint | Resource::Status => None,
        Resource::Blob(_) => Some("blob"),
        Resource::Action(_) => Some("action"),
        Resource::Value(_) | Resource::InstanceValue(..) => Some("value"),
    }
}

/// Whether a method means something somewhere.
pub(super) fn is_known(method: &Method) -> bool {
    KNOWN.contains(&method.as_str())
}

async fn routed(
    shared: &Arc<Shared>,
    caller: CasResult<Option<Identity>>,
    resource: Result<Resource, Refusal>,
    head: &Parts,
    content: &mut Option<Content>,
) -> Result<Answer, Refusal> {
    if !is_known(&head.method) {
        let text = format!("the method {} is not known here", head.method);
        return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, text));
    }
    if head.method == Method::OPTIONS && head.uri.path() == "*" {
        return Ok(answer::options(READ, None));
    }
    let resource = resource?;
    rights::check(caller, head, &resource)?;
    if head.method == Method::PUT
        && let Some(content) = content
    {
        content.read_as(head, &shared.windows)?;
    }
    match resource {
        Resource::Hint => read(head, || answer::text(StatusCode::OK, HINT)),
        Resource::Status => {
            let status = status::answer(shared).await;
            read(head, || status)
        }
        Resource::Blob(name) => blobs::answer(shared, head, name, content).await,
        Resource::Action(name) => actions::answer(shared, head, &name, content).await,
        Resource::Value(path) => dav::answer(shared, head, "", &path, content).await,
        Resource::InstanceValue(instance, path) => {
            dav::answer(shared, head, &instance, &path, content).await
        }
    }
}

fn read(head: &Parts, answer: impl FnOnce() -> Answer) -> Result<Answer, Refusal> {
    match head.method {
        Method::GET | Method::HEAD => Ok(answer()),
        Method::OPTIONS => Ok(answer::options(READ, None)),
        _ => Err(Refusal::method(READ)),
    }
}
