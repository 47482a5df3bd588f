//! Which traces are recorded. It is decided once for each, before any span is made.

use std::str::FromStr;

use opentelemetry::trace::{SpanContext, TraceId};
use rand::Rng;

use crate::{Environment, TelemetryError};

/// Which traces are recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Of those that begin here, 0 to 1.
    ratio: Ratio,
    /// What the caller decided holds.
    parent_based: bool,
}

/// A share of traces, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Ratio(f64);

/// The bits of a trace's number that a ratio is compared with.
const BITS: u32 = 63;

impl Sampler {
    /// Records this share of the traces that begin here, and all that a caller records.
    pub const fn parent_based(ratio: Ratio) -> Self {
        Self {
            ratio,
            parent_based: true,
        }
    }

    /// What `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG` say, if they do.
    ///
    /// # Errors
    /// They can't be read.
    pub fn of_variables(environment: Environment<'_>) -> Result<Option<Self>, TelemetryError> {
        let read = |name: &str| environment(name).filter(|text| !text.trim().is_empty());
        let Some(name) = read("OTEL_TRACES_SAMPLER") else {
            return Ok(None);
        };
        let argument = || match read("OTEL_TRACES_SAMPLER_ARG") {
            Some(text) => text.parse().map_err(|error: String| {
                TelemetryError::variable("OTEL_TRACES_SAMPLER_ARG", error)
            }),
            None => Ok(Ratio::ALL),
        };
        let (parent_based, base) = match name.trim().strip_prefix("parentbased_") {
            Some(base) => (true, base),
            None => (false, name.trim()),
        };
        let ratio = match base {
            "always_on" => Ratio::ALL,
            "always_off" => Ratio::NONE,
            "traceidratio" => argument()?,
            _ => {
                let reason = format!("there is no sampler {name:?}");
                return Err(TelemetryError::variable("OTEL_TRACES_SAMPLER", reason));
            }
        };
        Ok(Some(Self {
            ratio,
            parent_based,
        }))
    }

    /// Whether a trace is recorded here that began at `parent`, if that is there.
    pub(super) fn takes(&self, parent: Option<&SpanContext>) -> bool {
        match parent {
            Some(parent) if self.parent_based => parent.is_sampled(),
            Some(parent) => low_bits(parent.trace_id()) < self.ratio.bound(),
            None => self.ratio.0 >= 1.0 || rand::rng().random::<f64>() < self.ratio.0,
        }
    }

    /// The number of a new trace that is recorded: one that others which go by this ratio
    /// record too.
    pub(super) fn new_trace_id(&self) -> TraceId {
        let mut random = rand::rng();
        let low = random.random_range(0..self.ratio.bound().max(1));
        let low = low << 1 | u64::from(random.random::<bool>());
        let high: u64 = random.random_range(1..=u64::MAX);
        TraceId::from(u128::from(high) << 64 | u128::from(low))
    }
}

impl Ratio {
    /// Every trace.
    pub const ALL: Self = Self(1.0);
    /// None.
    pub const NONE: Self = Self(0.0);

    /// The low bits of a recorded trace's number are below it.
    fn bound(self) -> u64 {
        (self.0 * (1u64 << BITS) as f64) as u64
    }
}

/// The specification compares these with the ratio.
fn low_bits(trace: TraceId) -> u64 {
    let [.., a, b, c, d, e, f, g, h] = trace.to_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1
}

impl FromStr for Ratio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim().parse() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(Self(ratio)),
            _ => Err(format!(
                "{text:?} is no ratio: write 0 for none, 0.01, 1 for all"
            )),
        }
    }
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::trace::SpanKind;
    use opentelemetry::trace::{SpanId, TraceFlags, TraceState};
    use opentelemetry_sdk::trace::{SamplingDecision, ShouldSample};

    fn parent(trace: TraceId, sampled: bool) -> SpanContext {
        let flags = match sampled {
            true => TraceFlags::SAMPLED,
            false => TraceFlags::default(),
        };
        SpanContext::new(trace, SpanId::from(1), flags, true, TraceState::default())
    }

    fn of(name: &str, argument: &str) -> Result<Option<Sampler>, TelemetryError> {
        Sampler::of_variables(&|variable| match variable {
            "OTEL_TRACES_SAMPLER" => Some(name.to_owned()),
            "OTEL_TRACES_SAMPLER_ARG" => Some(argument.to_owned()),
            _ => None,
        })
    }

    #[test]
    fn parents_decide_where_they_are_to() {
        let (on, off) = (
            parent(TraceId::from(1), true),
            parent(TraceId::from(1), false),
        );
        let all = of("parentbased_always_on", "").unwrap().unwrap();
        assert!(all.takes(None) && all.takes(Some(&on)) && !all.takes(Some(&off)));
        let none = of("parentbased_traceidratio", "0").unwrap().unwrap();
        assert!(!none.takes(None) && none.takes(Some(&on)) && !none.takes(Some(&off)));
        let always = of("always_on", "").unwrap().unwrap();
        assert!(always.takes(Some(&off)));
        let never = of("always_off", "").unwrap().unwrap();
        assert!(!never.takes(Some(&on)));
    }

    #[test]
    fn a_share_is_taken() {
        let tenth = of("traceidratio", "0.1").unwrap().unwrap();
        let taken = (0..10_000).filter(|_| tenth.takes(None)).count();
        assert!((500..2000).contains(&taken), "{taken}");
    }

    #[test]
    fn new_traces_are_those_that_the_ratio_takes_elsewhere() {
        for ratio in ["0.000001", "0.1", "1"] {
            let sampler = of("traceidratio", ratio).unwrap().unwrap();
            let theirs =
                opentelemetry_sdk::trace::Sampler::TraceIdRatioBased(ratio.parse().unwrap());
            for _ in 0..100 {
                let trace = sampler.new_trace_id();
                assert!(sampler.takes(Some(&parent(trace, false))));
                let result = theirs.should_sample(None, trace, "", &SpanKind::Server, &[], &[]);
                assert_eq!(
                    result.decision,
                    SamplingDecision::RecordAndSample,
                    "{trace}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_sampler_is_refused() {
        assert!(of("sometimes", "").is_err());
        assert!(of("traceidratio", "1.5").is_err());
        assert!(of("traceidratio", "some").is_err());
    }
}
