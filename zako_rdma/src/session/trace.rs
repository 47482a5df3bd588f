//! The trace that a transfer is a part of. A session carries it and knows no more of it.

use zako_protobuf::rdma;

/// What travels with a transfer, as the headers of W3C Trace Context tell it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceContext {
    /// `traceparent`.
    pub parent: String,
    /// `tracestate`; may be empty.
    pub state: String,
}

/// No `traceparent` of any version known is longer, in bytes.
const MOST_PARENT: usize = 128;

/// What others have to pass on of a `tracestate`, in bytes.
const MOST_STATE: usize = 512;

impl TraceContext {
    /// What came; what is too long is left out.
    pub(super) fn of_wire(parent: String, state: String) -> Self {
        let within = |text: String, most: usize| match text.len() <= most {
            true => text,
            false => String::new(),
        };
        Self {
            parent: within(parent, MOST_PARENT),
            state: within(state, MOST_STATE),
        }
    }

    pub(super) fn to_wire(&self, transfer: u64) -> rdma::Trace {
        rdma::Trace {
            transfer,
            traceparent: self.parent.clone(),
            tracestate: self.state.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_left_out() {
        let context = TraceContext::of_wire("p".repeat(129), "s".repeat(512));
        assert_eq!(context.parent, "");
        assert_eq!(context.state.len(), 512);
    }
}
