//! What the C library's allocator keeps for the next buffer.
//!
//! Unsafe code: one call of the C library.
#![allow(unsafe_code)]

/// How much free memory at the end of a heap is kept, in bytes. By default it is less
/// than one buffer of a stream, and heaps shrink and grow all the time: each page is
/// then cleared by the kernel again, which was a quarter of an upload's CPU time.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: libc::c_int = 16 << 20;

/// Allocations of so many bytes are given back at once.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: libc::c_int = 4 << 20;

/// Keeps buffers of the usual sizes in the heaps. Where another C library is used
/// nothing is done.
pub(crate) fn keep_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes two numbers, may be called at any time, and sets two bounds
    // that any value is good for. A refusal (0) leaves them as they were.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}
