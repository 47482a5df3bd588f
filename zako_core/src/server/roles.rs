//! Which role each method of this server's own services takes.

use http::{HeaderMap, HeaderName};

use crate::access::{Identity, Role};
use crate::cas::{CasError, ErrorKind, Result};
use crate::negotiate::Caller;

/// The call metadata that names the namespace in which a call is made.
pub(super) const NAMESPACE: HeaderName = HeaderName::from_static("zako-namespace");

/// The longest name of a namespace that is taken, in bytes.
const LONGEST: usize = 256;

/// What a method takes of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needed {
    /// Nothing: load balancers and tools for people come without credentials.
    Nothing,
    /// To be somebody: which role in which namespace is found out by the method.
    Somebody,
    /// This role in the call's namespace.
    Role(Role),
}

/// Refuses a caller that may not call the method of this path, before anything else of the
/// call is looked at; who it is, where that makes a difference. What a face serves, it
/// minds itself.
///
/// # Errors
/// As for [`Caller::check`].
pub(super) fn check(
    caller: &Caller,
    headers: &HeaderMap,
    path: &str,
    is_faces: bool,
) -> Result<Option<Identity>> {
    let needed = match is_faces {
        true => Needed::Somebody,
        false => needed(path),
    };
    match needed {
        Needed::Nothing => Ok(caller.identity().unwrap_or_default()),
        Needed::Somebody => caller.identity(),
        Needed::Role(role) if caller.matters() => caller.identity_with(namespace(headers)?, role),
        Needed::Role(_) => Ok(None),
    }
}

/// The namespace that a call names; empty if it names none.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] if it can't be the name of one.
pub(super) fn namespace(headers: &HeaderMap) -> Result<&str> {
    let mut values = headers.get_all(NAMESPACE).iter();
    let Some(value) = values.next() else {
        return Ok("");
    };
    let name = value.to_str().ok().filter(|name| name.len() <= LONGEST);
    match name {
        Some(name) if values.next().is_none() => Ok(name),
        _ => Err(CasError::new(
            ErrorKind::InvalidArgument,
            format!("zako-namespace is one name of at most {LONGEST} visible characters"),
        )),
    }
}

fn needed(path: &str) -> Needed {
    let Some(path) = path.strip_prefix("/zako.v1.") else {
        // Health, reflection, and what isn't there.
        return Needed::Nothing;
    };
    Needed::Role(match path {
        "cas.ContentAddressableStorage/NegotiateBlobs"
        | "cas.ContentAddressableStorage/GetTransportDetails"
        | "transport.Transport/Download"
        | "batch.Batch/BatchDownload"
        | "store.Store/Stat"
        | "store.Store/Status"
        | "rdma.Rdma/Session"
        | "rdma.Probe/Run" => Role::Read,
        "transport.Transport/Upload" | "batch.Batch/BatchUpload" | "store.Store/Delete" => {
            Role::Write
        }
        // What is new and was forgotten here is for few, not for all.
        _ => Role::Admin,
    })
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn only_maintenance_is_left_to_admins() {
        let set = FileDescriptorSet::decode(zako_protobuf::FILE_DESCRIPTOR_SET).unwrap();
        let mut admins = Vec::new();
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    if needed(&path) == Needed::Role(Role::Admin) {
                        admins.push(method.name().to_owned());
                    }
                    assert!(needed(&path) != Needed::Nothing, "{path}");
                }
            }
        }
        admins.sort();
        assert_eq!(admins, ["CollectGarbage", "Verify"]);
        assert_eq!(needed("/grpc.health.v1.Health/Check"), Needed::Nothing);
        assert_eq!(needed("/zako.v1.x.Y/Z"), Needed::Role(Role::Admin));
    }

    #[test]
    fn a_call_names_one_namespace() {
        let mut headers = HeaderMap::new();
        assert_eq!(namespace(&headers).unwrap(), "");
        headers.insert(NAMESPACE, "main".parse().unwrap());
        assert_eq!(namespace(&headers).unwrap(), "main");
        headers.append(NAMESPACE, "other".parse().unwrap());
        assert!(namespace(&headers).is_err());
        for bad in ["a".repeat(257), "\u{e4}".to_owned()] {
            headers.insert(NAMESPACE, bad.parse().unwrap());
            assert!(namespace(&headers).is_err());
        }
    }
}
