//! Generated services behind the gate: a call is admitted before its body is read.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::BodyExt;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower_service::Service;

use super::connection::Shared;
use super::status::to_status;
use crate::access::Identity;
use crate::negotiate::{Access, Caller, Gate, Peer, StreamPermit};

/// The call metadata that carries a token.
pub(super) const TOKEN: &str = "zako-token";

/// A service of which some methods need a session.
#[derive(Clone)]
pub(super) struct Gated<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Gated<S> {
    pub(super) fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { inner, shared }
    }
}

impl<S: NamedService> NamedService for Gated<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send,
    S: 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Some(access) = access(request.uri().path()) else {
            return Box::pin(self.inner.call(request));
        };
        let shared = Arc::clone(&self.shared);
        // The clone was not polled ready, the original was: it takes the call.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let permit = match admit(&shared.gate, &head, access).await {
                Ok(permit) => permit,
                Err(status) => return Ok(status.into_http()),
            };
            let response = inner.call(Request::from_parts(head, body)).await?;
            // The stream is taken until the answer is sent.
            Ok(response.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let _taken = &permit;
                    frame
                }))
            }))
        })
    }
}

/// What a method of a generated service needs; `None` for those that are open.
fn access(path: &str) -> Option<Access> {
    match path {
        "/zako.v1.store.Store/Delete" => Some(Access::Write),
        _ => None,
    }
}

/// Admits a call by its connection and its token.
pub(super) async fn admit(
    gate: &Gate,
    head: &Parts,
    access: Access,
) -> Result<StreamPermit, Status> {
    let peer = peer(&head.extensions)?;
    let token = head.headers.get(TOKEN).map(|token| token.as_bytes());
    let identity = head.extensions.get::<Identity>();
    gate.admit_caller(peer, identity, token, access)
        .await
        .map_err(|error| to_status(&error))
}

/// Who makes a call.
pub(super) fn caller(extensions: &http::Extensions) -> Caller {
    extensions.get().cloned().unwrap_or_default()
}

/// The connection that a call came on.
pub(super) fn peer(extensions: &http::Extensions) -> Result<&Arc<Peer>, Status> {
    extensions
        .get()
        .ok_or_else(|| Status::internal("the call has no connection"))
}
