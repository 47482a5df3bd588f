//! Room for many connections, both ends of which are files of one process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets this process open as many files as it may have at most.
pub(crate) fn raise_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = maximum;
    // Where that is refused, the default may do.
    let _ = setrlimit(Resource::Nofile, Rlimit { current, maximum });
}
