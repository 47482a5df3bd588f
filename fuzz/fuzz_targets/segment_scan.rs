//! Segments after a crash: any content is survived, and whole records are found
//! among torn and damaged ones.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zako_core::store::local::fuzzing;

fuzz_target!(|data: &[u8]| {
    if let Some((first, rest)) = data.split_first() {
        match first % 2 {
            0 => fuzzing::segment_file(rest),
            _ => fuzzing::damaged_segment(rest),
        }
    }
});
