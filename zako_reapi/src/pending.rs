//! Stands in for `zako_core::alias` and `zako_core::cas::Staging` until they are there.
#![allow(missing_docs)]

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use zako_core::Digest;
use zako_core::cas::{Cas, CasError, ErrorKind, Result, Stored};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AliasKey(pub [u8; 32]);

impl AliasKey {
    pub fn derive(context: &'static str, parts: &[&[u8]]) -> Self {
        let mut all = context.as_bytes().to_vec();
        for part in parts {
            all.extend_from_slice(&(part.len() as u64).to_le_bytes());
            all.extend_from_slice(part);
        }
        Self(*zako_digest::hash::bytes(&all).hash().as_bytes())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    pub digest: Digest,
    pub expires: Option<u64>,
}

#[derive(Clone, Debug, Default)]
pub struct AliasOptions {}

#[derive(Clone, Debug, Default)]
pub struct AliasTable(Arc<Mutex<HashMap<AliasKey, Alias>>>);

#[allow(clippy::unwrap_used)]
impl AliasTable {
    pub async fn open(_: &Path, _: AliasOptions) -> Result<Self> {
        Ok(Self::default())
    }
    pub fn find(&self, key: &AliasKey) -> Option<Alias> {
        self.0.lock().unwrap().get(key).copied()
    }
    pub fn find_many(&self, keys: &[AliasKey], out: &mut Vec<Option<Alias>>) {
        let all = self.0.lock().unwrap();
        out.extend(keys.iter().map(|key| all.get(key).copied()));
    }
    pub async fn insert(&self, aliases: Vec<(AliasKey, Alias)>) -> Result<()> {
        self.0.lock().unwrap().extend(aliases);
        Ok(())
    }
    pub async fn remove(&self, keys: Vec<AliasKey>) -> Result<Vec<bool>> {
        let mut all = self.0.lock().unwrap();
        Ok(keys.iter().map(|key| all.remove(key).is_some()).collect())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UploadKey(pub [u8; 32]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StagedSize {
    Exactly(u64),
    AtMost(u64),
}

pub trait Witness: Send {
    fn update(&mut self, data: &[u8]);
    fn check(&mut self) -> Result<()>;
}

pub struct Writer {
    cas: Arc<dyn Staging>,
    size: StagedSize,
    data: BytesMut,
    witness: Box<dyn Witness>,
}

impl Writer {
    pub fn held(&self) -> u64 {
        self.data.len() as u64
    }
    pub async fn write(&mut self, data: Bytes) -> Result<()> {
        self.witness.update(&data);
        self.data.extend_from_slice(&data);
        match self.size {
            StagedSize::Exactly(most) | StagedSize::AtMost(most) if self.held() > most => Err(
                CasError::new(ErrorKind::Mismatch, "more bytes than declared"),
            ),
            _ => Ok(()),
        }
    }
    pub async fn commit(mut self: Box<Self>) -> Result<(Digest, Stored)> {
        if matches!(self.size, StagedSize::Exactly(size) if size != self.held()) {
            return Err(CasError::new(
                ErrorKind::Mismatch,
                "fewer bytes than declared",
            ));
        }
        self.witness.check()?;
        let data = self.data.freeze();
        let digest = zako_digest::hash::bytes(&data);
        let stored = self.cas.put(&digest, data).await?;
        Ok((digest, stored))
    }
    pub async fn park(self: Box<Self>) -> Result<u64> {
        Ok(0)
    }
    pub async fn discard(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

pub trait Staging: Cas {}
impl<C: Cas> Staging for C {}

impl dyn Staging {
    pub async fn put_unnamed(&self, blobs: Vec<Bytes>) -> Vec<Result<(Digest, Stored)>> {
        let named = blobs.into_iter();
        let named: Vec<_> = named
            .map(|data| (zako_digest::hash::bytes(&data), data))
            .collect();
        let digests: Vec<Digest> = named.iter().map(|(digest, _)| *digest).collect();
        let stored = self.put_batch(named).await;
        let outcomes = digests.into_iter().zip(stored);
        outcomes
            .map(|(digest, stored)| stored.map(|stored| (digest, stored)))
            .collect()
    }
    pub async fn stage(
        self: &Arc<Self>,
        _: &UploadKey,
        size: StagedSize,
        _: u64,
        witness: Box<dyn Witness>,
    ) -> Result<Box<Writer>> {
        let cas = Arc::clone(self);
        let data = BytesMut::new();
        Ok(Box::new(Writer {
            cas,
            size,
            data,
            witness,
        }))
    }
    pub async fn staged(&self, _: &UploadKey) -> Result<u64> {
        Ok(0)
    }
}
