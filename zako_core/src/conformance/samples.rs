//! Blobs to check a store with, and looking at one.

use std::sync::Arc;

use bytes::Bytes;

use super::{Check, ensure, ensure_eq, ensure_error};
use crate::Digest;
use crate::cas::{Cas, CasExt, ErrorKind, Lease};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Sizes around the bounds at which stores change their ways.
pub(super) const SIZES: [usize; 11] = [
    0,
    1,
    2,
    64 * KIB - 1,
    64 * KIB,
    64 * KIB + 1,
    MIB - 1,
    MIB,
    MIB + 1,
    4 * MIB + 1,
    5 * MIB,
];

/// A size for which stores take their way for large blobs.
pub(super) const LARGE: usize = 3 * MIB + 5;

/// Bytes that depend on `seed` and don't repeat, with their digest. Every property
/// has seeds of its own, so that all may run on one store.
pub(super) fn sample(seed: &str, length: usize) -> (Digest, Bytes) {
    let mut state = u64::from_le_bytes(
        *zako_digest::hash::bytes(seed.as_bytes())
            .hash()
            .as_bytes()
            .first_chunk()
            .unwrap_or(&[1; 8]),
    ) | 1;
    let mut data = Vec::with_capacity(length + 8);
    while data.len() < length {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend_from_slice(&state.to_le_bytes());
    }
    data.truncate(length);
    let data = Bytes::from(data);
    (zako_digest::hash::bytes(&data), data)
}

/// The same bytes with the last one changed; empty ones stay so.
pub(super) fn spoiled(data: &[u8]) -> Bytes {
    let mut data = data.to_vec();
    if let Some(last) = data.last_mut() {
        *last ^= 1;
    }
    data.into()
}

/// Checks that a blob is there, whole.
pub(super) async fn ensure_present(cas: &Arc<dyn Cas>, digest: &Digest, data: &[u8]) -> Check {
    let missing = cas.missing(&[*digest], Lease::None).await?;
    ensure!(
        missing.is_empty(),
        "a stored blob is reported missing: {digest}"
    );
    ensure_eq!(cas.stat(digest).await?.digest, *digest, "the stat's digest");
    ensure_eq!(
        cas.held(digest).await?,
        digest.size(),
        "held of a stored blob"
    );
    let read = cas.fetch_bytes(digest).await?;
    ensure!(
        read == data,
        "a stored blob comes back with other bytes: {digest}"
    );
    Ok(())
}

/// Checks that nothing shows that a blob was ever there.
pub(super) async fn ensure_absent(cas: &Arc<dyn Cas>, digest: &Digest) -> Check {
    let missing = cas.missing(&[*digest], Lease::Default).await?;
    ensure_eq!(missing, [*digest], "missing, asked for an absent blob");
    ensure_error!(
        cas.stat(digest).await,
        ErrorKind::NotFound,
        "stat of an absent blob"
    );
    ensure_error!(
        cas.fetch_bytes(digest).await,
        ErrorKind::NotFound,
        "fetch of an absent blob"
    );
    Ok(())
}

/// Checks that a blob is absent, and nothing is held of an upload of it.
pub(super) async fn ensure_nothing_held(cas: &Arc<dyn Cas>, digest: &Digest) -> Check {
    ensure_absent(cas, digest).await?;
    ensure_eq!(cas.held(digest).await?, 0, "held of {digest}");
    Ok(())
}
