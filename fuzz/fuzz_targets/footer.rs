//! Footers of segments: what decodes encodes to the same bytes, and points nowhere
//! but at places where records can lie.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zako_core::store::local::fuzzing;

fuzz_target!(|data: &[u8]| fuzzing::footer(data));
