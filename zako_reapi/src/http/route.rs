//! Which resource a request is for, and what it may do there.

use std::sync::Arc;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use zako_core::server::FileRoad;

use super::Shared;
use super::answer::{self, Answer};
use super::connection::Busy;
use super::refusal::Refusal;
use super::status;

const HINT: &str = "This is Zako's HTTP cache: /[instance/]cas/<hash>, /[instance/]ac/<hash>, \
                    /dav/<path>, /status";

/// Answers a request.
pub(super) async fn answer(
    shared: Arc<Shared>,
    road: FileRoad,
    request: Request<Incoming>,
    busy: Busy,
) -> Answer {
    let head = request.method() == Method::HEAD;
    let answer = routed(&shared, road, request).await;
    answer::finish(answer.unwrap_or_else(Refusal::answer), head, busy)
}

async fn routed(
    shared: &Arc<Shared>,
    _road: FileRoad,
    request: Request<Incoming>,
) -> Result<Answer, Refusal> {
    match request.uri().path() {
        "/" => Ok(answer::text(StatusCode::OK, HINT)),
        "/status" => Ok(status::answer(shared).await),
        _ => Err(Refusal::not_found("nothing is here")),
    }
}
