//! What a caller may do in an instance: its name is the namespace.

use tonic::Status;
use zako_core::access::Role;
use zako_core::negotiate::Caller;
use zako_core::server::to_status;

/// Refuses a caller that has not this role in the instance.
pub(super) fn check(caller: &Caller, instance: &str, role: Role) -> Result<(), Status> {
    let allowed = caller.check(instance, role);
    allowed.map_err(|error| to_status(&error))
}

/// Refuses a caller that has this role in no instance, before a message is read that names
/// one.
pub(super) fn check_somewhere(caller: &Caller, role: Role) -> Result<(), Status> {
    let allowed = caller.check_somewhere(role);
    allowed.map_err(|error| to_status(&error))
}
