//! A witness for staged uploads, and what their properties have in common.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::samples::{LARGE, ensure_present};
use super::{Check, ensure_eq};
use crate::Digest;
use crate::cas::{
    Cas, CasError, ErrorKind, Result, StagedSize, StagedWriter, Staging, Stored, UploadKey, Witness,
};

/// Sees what a store shows it, and refuses what isn't the blob, if told so.
#[derive(Clone, Default)]
pub(super) struct Eye {
    seen: Arc<Mutex<Seen>>,
    wanted: Option<Digest>,
    refusal: Option<ErrorKind>,
}

#[derive(Default)]
struct Seen {
    hasher: zako_digest::hash::Hasher,
    checks: usize,
}

impl Eye {
    /// Refuses other bytes than these.
    pub(super) fn wanting(digest: Digest) -> Self {
        Self {
            wanted: Some(digest),
            ..Self::default()
        }
    }

    /// Refuses whatever comes.
    pub(super) fn refusing(kind: ErrorKind) -> Self {
        Self {
            refusal: Some(kind),
            ..Self::default()
        }
    }

    pub(super) fn boxed(&self) -> Box<dyn Witness> {
        Box::new(self.clone())
    }

    /// Whether it saw these bytes, no others, and was then asked once.
    pub(super) fn ensure_saw(&self, data: &[u8]) -> Check {
        let seen = self.seen.lock();
        ensure_eq!(
            seen.hasher.finish(),
            zako_digest::hash::bytes(data),
            "the bytes that the witness saw"
        );
        ensure_eq!(seen.checks, 1, "how often the witness was asked");
        Ok(())
    }
}

impl Witness for Eye {
    fn update(&mut self, data: &[u8]) {
        self.seen.lock().hasher.update(data);
    }

    fn check(&mut self) -> Result<()> {
        let mut seen = self.seen.lock();
        seen.checks += 1;
        if let Some(kind) = self.refusal {
            return Err(CasError::new(kind, "the witness refuses"));
        }
        let actual = seen.hasher.finish();
        match self.wanted {
            Some(wanted) if wanted != actual => Err(CasError::mismatch(wanted, actual)),
            _ => Ok(()),
        }
    }
}

pub(super) fn up(cas: &Arc<dyn Staging>) -> Arc<dyn Cas> {
    Arc::clone(cas) as _
}

pub(super) fn key(name: &str) -> UploadKey {
    UploadKey::of_name(name.as_bytes())
}

pub(super) fn bounds(size: usize) -> [StagedSize; 2] {
    let size = size as u64;
    [
        StagedSize::Exactly(size),
        StagedSize::AtMost(size + LARGE as u64),
    ]
}

pub(super) async fn write_steps(
    writer: &mut Box<dyn StagedWriter>,
    data: &Bytes,
    step: usize,
) -> Result<()> {
    for step in data.chunks(step) {
        writer.write(data.slice_ref(step)).await?;
    }
    Ok(())
}

pub(super) async fn ensure_nothing_staged(cas: &Arc<dyn Staging>, key: &UploadKey) -> Check {
    ensure_eq!(cas.staged(key).await?, 0, "what is staged");
    Ok(())
}

/// Stores a blob from wherever its upload stands.
pub(super) async fn finish(
    cas: &Arc<dyn Staging>,
    key: &UploadKey,
    bound: StagedSize,
    digest: &Digest,
    data: &Bytes,
) -> Check {
    let (at, eye) = (cas.staged(key).await?, Eye::wanting(*digest));
    let mut writer = cas.stage(key, bound, at, eye.boxed()).await?;
    write_steps(&mut writer, &data.slice(at as usize..), 50_000).await?;
    let stored = writer.commit().await?;
    ensure_eq!(stored, (*digest, Stored::New), "the blob stored at last");
    eye.ensure_saw(data)?;
    ensure_present(&up(cas), digest, data).await?;
    ensure_nothing_staged(cas, key).await
}
