//! Calls that were refused or failed, by method and code.

use std::time::SystemTime;

use zako_core::observe::{CallEnd, Interface};

/// Kinds of failures that are kept: those that came last.
const MOST: usize = 32;

/// The longest part of a method's name that is kept, in bytes.
const LONGEST_METHOD: usize = 100;

/// The kinds that came last, in no order.
#[derive(Clone, Debug, Default)]
pub(super) struct Failures(Vec<Failure>);

/// Calls of one method that ended with one code.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) interface: Interface,
    pub(super) method: Box<str>,
    pub(super) code: u16,
    pub(super) count: u64,
    pub(super) last: SystemTime,
}

impl Failures {
    pub(super) fn count(&mut self, call: &CallEnd<'_>, now: SystemTime) {
        let method = &call.method[..call.method.floor_char_boundary(LONGEST_METHOD)];
        let is_same = |known: &&mut Failure| {
            (known.interface, known.code) == (call.interface, call.code) && *known.method == *method
        };
        if let Some(known) = self.0.iter_mut().find(is_same) {
            known.count += 1;
            known.last = now;
            return;
        }
        if self.0.len() >= MOST {
            let oldest = (0..self.0.len()).min_by_key(|at| self.0[*at].last);
            oldest.map(|at| self.0.swap_remove(at));
        }
        self.0.push(Failure {
            interface: call.interface,
            method: method.into(),
            code: call.code,
            count: 1,
            last: now,
        });
    }

    /// Those, the last first.
    pub(super) fn latest(&self) -> Vec<Failure> {
        let mut all = self.0.clone();
        all.sort_by_key(|failure| std::cmp::Reverse(failure.last));
        all
    }
}

/// Whether a call that ended so was refused or failed: what isn't there is an answer as
/// any other, and who goes away is not the server's fault.
pub(super) fn is_failure(call: &CallEnd<'_>) -> bool {
    const OK: u16 = 0;
    const CANCELLED: u16 = 1;
    const NOT_FOUND: u16 = 5;
    const ALREADY_EXISTS: u16 = 6;
    // Nobody waited for the answer.
    const GONE: u16 = 499;
    match call.code {
        OK | CANCELLED | NOT_FOUND | ALREADY_EXISTS => false,
        // HTTP's begin where gRPC's have ended.
        code => code < 100 || (code >= 400 && code != 404 && code != GONE),
    }
}

/// A word for a code.
pub(super) fn code_name(code: u16) -> &'static str {
    match code {
        2 => "UNKNOWN",
        3 => "INVALID_ARGUMENT",
        4 => "DEADLINE_EXCEEDED",
        7 => "PERMISSION_DENIED",
        8 => "RESOURCE_EXHAUSTED",
        9 => "FAILED_PRECONDITION",
        10 => "ABORTED",
        11 => "OUT_OF_RANGE",
        12 => "UNIMPLEMENTED",
        13 => "INTERNAL",
        14 => "UNAVAILABLE",
        15 => "DATA_LOSS",
        16 => "UNAUTHENTICATED",
        _ => http::StatusCode::from_u16(code)
            .ok()
            .and_then(|code| code.canonical_reason())
            .unwrap_or(""),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn call(method: &str, code: u16) -> CallEnd<'_> {
        let mut call = CallEnd::new(Interface::Zako, method);
        call.code = code;
        call
    }

    #[test]
    fn absence_is_an_answer() {
        for (code, failure) in [
            (0, false),
            (5, false),
            (8, true),
            (200, false),
            (404, false),
        ] {
            assert_eq!(is_failure(&call("/a/b", code)), failure, "{code}");
        }
        assert!(is_failure(&call("GET", 500)) && !is_failure(&call("GET", 304)));
    }

    #[test]
    fn the_kinds_that_came_last_are_kept() {
        let mut failures = Failures::default();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for number in 0..10_000 {
            failures.count(&call(&format!("/{number}"), 13), at(2 * number));
            failures.count(&call("/again", 8), at(2 * number + 1));
        }
        let latest = failures.latest();
        assert_eq!(latest.len(), MOST);
        assert_eq!((&*latest[0].method, latest[0].count), ("/again", 10_000));
        assert_eq!(&*latest[1].method, "/9999");
        failures.count(&call(&"ü".repeat(9999), 13), at(99_999));
        assert!(failures.latest()[0].method.len() <= LONGEST_METHOD);
    }
}
