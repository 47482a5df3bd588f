//! `/[instance/]ac/<hash>`: action results, and what else clients keep under such names.

use http::request::Parts;
use http::{Method, StatusCode};

use super::Shared;
use super::answer::{self, Answer};
use super::decode::Content;
use super::give;
use super::path::ActionName;
use super::receive::{self, Gathered};
use super::refusal::Refusal;

const METHODS: &str = "GET, HEAD, PUT, OPTIONS";

/// Answers a request.
pub(super) async fn answer(
    shared: &Shared,
    head: &Parts,
    name: &ActionName,
    content: &mut Option<Content>,
) -> Result<Answer, Refusal> {
    let cache = &shared.cache;
    match head.method {
        Method::GET | Method::HEAD => match cache.action(&name.instance, &name.action).await? {
            Some(data) => Ok(give::bytes(data)),
            None => Err(Refusal::not_found(
                "there is no result of this action, or a part of it is gone",
            )),
        },
        Method::PUT => {
            let Some(content) = content else {
                return Err(Refusal::bad("the request has no body"));
            };
            let most = cache.options().max_value_bytes;
            match receive::gather(shared, content, most).await? {
                Gathered::Whole(data, _share) => {
                    cache.set_action(&name.instance, &name.action, data).await?;
                    Ok(answer::empty(StatusCode::OK))
                }
                Gathered::More(_) => Err(Refusal::too_large(most)),
            }
        }
        Method::OPTIONS => Ok(answer::options(METHODS, None)),
        _ => Err(Refusal::method(METHODS)),
    }
}
