//! What a caller may do: the instance in a path is the namespace.

use http::Method;
use http::request::Parts;
use zako_core::access::{Identity, Role};
use zako_core::cas::Result as CasResult;

use super::path::{Resource, instance};
use super::refusal::Refusal;

/// Refuses a caller that has not the role which a request takes, before anything of the
/// body is read.
pub(super) fn check(
    caller: CasResult<Option<Identity>>,
    head: &Parts,
    resource: &Resource,
) -> Result<(), Refusal> {
    let role = match head.method {
        // What can be done is no secret, and asked for before credentials are sent.
        Method::OPTIONS => return Ok(()),
        Method::GET | Method::HEAD => Role::Read,
        _ if head.method.as_str() == "PROPFIND" => Role::Read,
        _ => Role::Write,
    };
    if matches!(resource, Resource::Hint) {
        return Ok(());
    }
    let Some(identity) = caller? else {
        return Ok(());
    };
    match resource {
        Resource::Status => identity.require_somewhere(role)?,
        _ => identity.require(&instance(head.uri.path()), role)?,
    }
    Ok(())
}
