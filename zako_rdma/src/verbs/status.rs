//! What codes of libibverbs mean here.

use std::ffi::c_int;
use std::io;

use ibverbs_sys::ibv_wc_status as code;

use crate::fabric::{FabricError, FailureKind};
use crate::memory_limit::{HOW_TO_RAISE, MemoryLimit};

/// The error of work that ended with this status; `None` if it succeeded.
///
/// `one_sided` is work on the peer's memory: READ and WRITE.
pub(super) fn failure(status: code::Type, one_sided: bool, name: &str) -> Option<FabricError> {
    let (kind, meaning) = match status {
        code::IBV_WC_SUCCESS => return None,
        code::IBV_WC_REM_ACCESS_ERR => (
            FailureKind::RemoteAccess,
            "the peer allows no such access to that memory",
        ),
        // What a card says if no memory of the queue pair may be accessed in that way.
        code::IBV_WC_REM_INV_REQ_ERR if one_sided => (
            FailureKind::RemoteAccess,
            "the peer allows no access of that kind",
        ),
        code::IBV_WC_RETRY_EXC_ERR => (FailureKind::PeerGone, "the peer doesn't answer"),
        code::IBV_WC_RNR_RETRY_EXC_ERR => (
            FailureKind::NotReceiving,
            "the peer has nothing posted to receive into",
        ),
        code::IBV_WC_WR_FLUSH_ERR => (
            FailureKind::Flushed,
            "the queue pair had failed before this was done",
        ),
        _ => (FailureKind::Device, "the card failed"),
    };
    Some(FabricError::new(kind, format!("{meaning} ({name})")))
}

/// The error behind the result of a function that returns 0 for success, and otherwise
/// the error's number or -1 and `errno`.
pub(super) fn checked(result: c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        number if number > 0 => Err(io::Error::from_raw_os_error(number)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What went wrong, by what can be done about it.
pub(super) fn refused(what: &str, error: &io::Error) -> FabricError {
    let kind = match error.kind() {
        io::ErrorKind::OutOfMemory | io::ErrorKind::StorageFull => FailureKind::Resources,
        io::ErrorKind::PermissionDenied => FailureKind::Unavailable,
        _ => FailureKind::Device,
    };
    let mut message = format!("{what}: {error}");
    // Queues are pinned memory, too.
    if error.kind() == io::ErrorKind::OutOfMemory && MemoryLimit::current().room().is_some() {
        message += &format!("; if it is the limit on pinned memory, {HOW_TO_RAISE}");
    }
    FabricError::new(kind, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn statuses_become_what_can_be_done_about_them() {
        for (status, one_sided, kind) in [
            (code::IBV_WC_REM_ACCESS_ERR, true, FailureKind::RemoteAccess),
            (
                code::IBV_WC_REM_INV_REQ_ERR,
                true,
                FailureKind::RemoteAccess,
            ),
            (code::IBV_WC_REM_INV_REQ_ERR, false, FailureKind::Device),
            (code::IBV_WC_RETRY_EXC_ERR, true, FailureKind::PeerGone),
            (
                code::IBV_WC_RNR_RETRY_EXC_ERR,
                false,
                FailureKind::NotReceiving,
            ),
            (code::IBV_WC_WR_FLUSH_ERR, false, FailureKind::Flushed),
            (code::IBV_WC_LOC_PROT_ERR, false, FailureKind::Device),
        ] {
            let error = failure(status, one_sided, "the name").unwrap();
            assert_eq!(error.kind(), kind, "{status}");
            assert!(error.to_string().contains("the name"));
        }
        assert_eq!(failure(code::IBV_WC_SUCCESS, true, ""), None);
    }

    #[test]
    fn results_are_numbers_of_errors() {
        checked(0).unwrap();
        assert_eq!(checked(22).unwrap_err().raw_os_error(), Some(22));
    }
}
