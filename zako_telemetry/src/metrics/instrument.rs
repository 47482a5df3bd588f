//! Instruments out of the catalogue.

use opentelemetry::metrics::{AsyncInstrument, Counter, Histogram, Meter};

use super::catalog::{Kind, Spec};

/// Buckets of calls that are answered at once, in seconds.
pub(super) const SHORT_SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
];

/// Buckets of streams, which take as long as their bytes do.
pub(super) const LONG_SECONDS: &[f64] = &[
    0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0, 7200.0,
];

pub(super) fn counter(meter: &Meter, spec: Spec) -> Counter<u64> {
    debug_assert_eq!(spec.kind, Kind::Counter);
    let counter = meter.u64_counter(spec.name);
    let counter = counter.with_unit(spec.unit).with_description(spec.help);
    counter.build()
}

pub(super) fn seconds(meter: &Meter, spec: Spec, buckets: &[f64]) -> Histogram<f64> {
    debug_assert_eq!((spec.kind, spec.unit), (Kind::Histogram, "s"));
    let histogram = meter.f64_histogram(spec.name);
    let histogram = histogram.with_unit(spec.unit).with_description(spec.help);
    histogram.with_boundaries(buckets.to_vec()).build()
}

pub(super) fn sizes(meter: &Meter, spec: Spec, buckets: &[f64]) -> Histogram<u64> {
    debug_assert_eq!(spec.kind, Kind::Histogram);
    let histogram = meter.u64_histogram(spec.name);
    let histogram = histogram.with_unit(spec.unit).with_description(spec.help);
    histogram.with_boundaries(buckets.to_vec()).build()
}

/// A gauge that is there if `read` knows it.
pub(super) fn gauge(
    meter: &Meter,
    spec: Spec,
    read: impl Fn() -> Option<u64> + Send + Sync + 'static,
) {
    gauges(meter, spec, move |at| {
        if let Some(value) = read() {
            at.observe(value, &[]);
        }
    });
}

/// A gauge of as many series as `read` tells.
pub(super) fn gauges(
    meter: &Meter,
    spec: Spec,
    read: impl Fn(&dyn AsyncInstrument<u64>) + Send + Sync + 'static,
) {
    debug_assert_eq!(spec.kind, Kind::Gauge);
    let gauge = meter.u64_observable_gauge(spec.name);
    let gauge = gauge.with_unit(spec.unit).with_description(spec.help);
    gauge.with_callback(read).build();
}
