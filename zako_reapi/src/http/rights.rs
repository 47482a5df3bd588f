//! What a caller may do: the instance in a path is the namespace.

use http::Method;
use http::request::Parts;
use zako_core::access::Role;
use zako_core::negotiate::Caller;

use super::path::{Resource, instance};
use super::refusal::Refusal;

/// Refuses a caller that has not the role which a request takes, before anything of the
/// body is read.
pub(super) fn check(caller: &Caller, head: &Parts, resource: &Resource) -> Result<(), Refusal> {
    if !caller.matters() {
        return Ok(());
    }
    let role = match head.method {
        // What can be done is no secret, and asked for before credentials are sent.
        Method::OPTIONS => return Ok(()),
        Method::GET | Method::HEAD => Role::Read,
        _ if head.method.as_str() == "PROPFIND" => Role::Read,
        _ => Role::Write,
    };
    match resource {
        Resource::Hint => Ok(()),
        Resource::Status => caller.check_somewhere(role),
        _ => caller.check(&instance(head.uri.path()), role),
    }
    .map_err(Refusal::from)
}
