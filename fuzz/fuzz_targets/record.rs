//! Headers of segments and records: what decodes encodes to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zako_core::store::local::fuzzing;

fuzz_target!(|data: &[u8]| fuzzing::headers(data));
