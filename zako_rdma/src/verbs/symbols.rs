//! The functions of libibverbs, found when the program runs.
//!
//! This file has `unsafe` code: it opens a library and believes that its functions have
//! the types of its header, which are checked against `ibverbs-sys` when this is built.
//!
//! What the header has as inline functions (posting, polling, arming) goes through a
//! context's table of functions instead: `queue_pair.rs` and `completion_queue.rs`.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use ibverbs_sys::{
    _compat_ibv_port_attr, ibv_comp_channel, ibv_context, ibv_cq, ibv_device, ibv_device_attr,
    ibv_gid_entry, ibv_mr, ibv_pd, ibv_qp, ibv_qp_attr, ibv_qp_init_attr, ibv_wc_status,
};
use libloading::Library;

use crate::fabric::{FabricError, FailureKind, Result};

/// The library's name, with the number of its interface.
const LIBRARY: &str = "libibverbs.so.1";

/// The functions, once they have been found.
pub(super) fn verbs() -> Result<&'static Verbs> {
    static VERBS: OnceLock<Result<Verbs>> = OnceLock::new();
    VERBS
        .get_or_init(|| Verbs::open(LIBRARY))
        .as_ref()
        .map_err(Clone::clone)
}

macro_rules! functions {
    ($($name:ident($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// Functions of libibverbs, by their names there.
        pub(super) struct Verbs {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        // Nothing uses these, so the linker never looks for the functions.
        $(const _: unsafe extern "C" fn($($argument),*) $(-> $result)? = ibverbs_sys::$name;)*

        impl Verbs {
            fn open(name: &str) -> Result<Self> {
                // SAFETY: libibverbs does nothing on being opened but set up its own state.
                let library = unsafe { Library::new(name) }.map_err(|error| {
                    unavailable(format!(
                        "{name} can't be opened ({error}); install it (Debian, Ubuntu: \
                         libibverbs1 and ibverbs-providers; Fedora: libibverbs)"
                    ))
                })?;
                let verbs = Self {
                    $($name: {
                        // SAFETY: the type is that of the function in the header of the
                        // library's interface 1, as checked above.
                        let found = unsafe { library.get(stringify!($name).as_bytes()) };
                        *found.map_err(|_| {
                            unavailable(format!(
                                "{name} has no {}; one of rdma-core 32 or later has it",
                                stringify!($name)
                            ))
                        })?
                    },)*
                };
                // For good: the functions are used as long as the process runs.
                std::mem::forget(library);
                Ok(verbs)
            }
        }
    };
}

functions! {
    ibv_get_device_list(*mut c_int) -> *mut *mut ibv_device;
    ibv_free_device_list(*mut *mut ibv_device);
    ibv_get_device_name(*mut ibv_device) -> *const c_char;
    ibv_open_device(*mut ibv_device) -> *mut ibv_context;
    ibv_close_device(*mut ibv_context) -> c_int;
    ibv_query_device(*mut ibv_context, *mut ibv_device_attr) -> c_int;
    ibv_query_port(*mut ibv_context, u8, *mut _compat_ibv_port_attr) -> c_int;
    _ibv_query_gid_table(*mut ibv_context, *mut ibv_gid_entry, usize, u32, usize) -> isize;
    ibv_alloc_pd(*mut ibv_context) -> *mut ibv_pd;
    ibv_dealloc_pd(*mut ibv_pd) -> c_int;
    ibv_reg_mr(*mut ibv_pd, *mut c_void, usize, c_int) -> *mut ibv_mr;
    ibv_dereg_mr(*mut ibv_mr) -> c_int;
    ibv_create_comp_channel(*mut ibv_context) -> *mut ibv_comp_channel;
    ibv_destroy_comp_channel(*mut ibv_comp_channel) -> c_int;
    ibv_create_cq(*mut ibv_context, c_int, *mut c_void, *mut ibv_comp_channel, c_int) -> *mut ibv_cq;
    ibv_destroy_cq(*mut ibv_cq) -> c_int;
    ibv_get_cq_event(*mut ibv_comp_channel, *mut *mut ibv_cq, *mut *mut c_void) -> c_int;
    ibv_ack_cq_events(*mut ibv_cq, c_uint);
    ibv_create_qp(*mut ibv_pd, *mut ibv_qp_init_attr) -> *mut ibv_qp;
    ibv_modify_qp(*mut ibv_qp, *mut ibv_qp_attr, c_int) -> c_int;
    ibv_destroy_qp(*mut ibv_qp) -> c_int;
    ibv_wc_status_str(ibv_wc_status::Type) -> *const c_char;
}

fn unavailable(message: String) -> FabricError {
    FabricError::new(FailureKind::Unavailable, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_library_that_is_absent_is_reported_with_the_package_that_has_it() {
        let error = Verbs::open("libibverbs-absent.so.1").err().unwrap();
        assert_eq!(error.kind(), FailureKind::Unavailable);
        assert!(error.to_string().contains("libibverbs1"), "{error}");
    }

    #[test]
    fn a_library_without_the_functions_is_reported_with_the_first_that_it_lacks() {
        let error = Verbs::open("libc.so.6").err().unwrap();
        assert_eq!(error.kind(), FailureKind::Unavailable);
        assert!(error.to_string().contains("ibv_get_device_list"), "{error}");
    }
}
