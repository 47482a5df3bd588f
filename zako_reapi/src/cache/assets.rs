//! Remote assets: blobs and directories under URIs and qualifiers, as they were pushed.

use std::time::{Duration, SystemTime};

use prost::Message;
use prost_types::Timestamp;
use zako_core::alias::AliasKey;
use zako_core::cas::{CasError, ErrorKind, Result};

use super::references::References;
use super::{ActionUpdates, Cache};
use crate::digest::{DigestFunction, RemoteDigest};
use crate::proto::asset::Qualifier;
use crate::proto::reapi;

/// What a URI may stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AssetKind {
    Blob,
    /// The root of a tree of directories.
    Directory,
}

/// By what an asset is found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AssetName<'a> {
    pub(crate) instance: &'a str,
    pub(crate) kind: AssetKind,
    pub(crate) uri: &'a str,
    /// In any order.
    pub(crate) qualifiers: &'a [Qualifier],
}

/// What was pushed, as it is stored.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Asset {
    #[prost(message, optional, tag = "1")]
    pub(crate) digest: Option<reapi::Digest>,
    /// Blobs and directories without which it is of no use.
    #[prost(message, repeated, tag = "2")]
    pub(crate) blobs: Vec<reapi::Digest>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) directories: Vec<reapi::Digest>,
    #[prost(message, optional, tag = "4")]
    pub(crate) pushed_at: Option<Timestamp>,
    #[prost(message, optional, tag = "5")]
    pub(crate) expires_at: Option<Timestamp>,
}

impl Cache {
    /// Stores an asset under a name, until it expires. What it refers to may come later.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`] if this cache takes nothing,
    /// [`ErrorKind::InvalidArgument`] for digests that are none,
    /// [`ErrorKind::NoSpace`] for too many; those of the store.
    pub(crate) async fn push_asset(
        &self,
        name: AssetName<'_>,
        function: DigestFunction,
        asset: &Asset,
    ) -> Result<()> {
        asset.references(name.kind, function)?;
        match self.options.action_updates {
            ActionUpdates::Allowed => {}
            ActionUpdates::Refused => {
                let text = "assets are not taken here: this cache is read only";
                return Err(CasError::new(ErrorKind::PermissionDenied, text));
            }
            ActionUpdates::Dropped => return Ok(()),
        }
        let data = asset.encode_to_vec();
        let most = self.options.max_value_bytes;
        if data.len() as u64 > most {
            let text = format!(
                "an asset that is described by {} bytes, not {most}",
                data.len()
            );
            return Err(CasError::new(ErrorKind::NoSpace, text));
        }
        let expires = asset.expires_at.as_ref().map(time);
        self.set_value(name.key(function), data.into(), expires)
            .await
    }

    /// The asset of a name, if it and all that it refers to are here; all is leased.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn asset(
        &self,
        name: AssetName<'_>,
        function: DigestFunction,
    ) -> Result<Option<Asset>> {
        let Some(data) = self.leased_value(&name.key(function)).await? else {
            return Ok(None);
        };
        let Ok(asset) = Asset::decode(data) else {
            return Ok(None);
        };
        let Ok(references) = asset.references(name.kind, function) else {
            return Ok(None);
        };
        Ok(self.keep(&references).await?.then_some(asset))
    }
}

impl AssetName<'_> {
    fn key(&self, function: DigestFunction) -> AliasKey {
        let kind = match self.kind {
            AssetKind::Blob => "blob",
            AssetKind::Directory => "directory",
        };
        let words = [self.instance, function.name(), kind, self.uri];
        let mut parts: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let qualifiers = self.qualifiers.iter();
        let mut qualifiers: Vec<(&str, &str)> = qualifiers
            .map(|qualifier| (&*qualifier.name, &*qualifier.value))
            .collect();
        qualifiers.sort_unstable();
        qualifiers.dedup();
        for (name, value) in qualifiers {
            parts.extend([name.as_bytes(), value.as_bytes()]);
        }
        AliasKey::derive("zako 2026-11 remote asset", &parts)
    }
}

impl Asset {
    fn references(&self, kind: AssetKind, function: DigestFunction) -> Result<References> {
        let parse = |digest: &reapi::Digest| RemoteDigest::of_wire(Some(function), digest);
        let all = |digests: &[reapi::Digest]| digests.iter().map(parse).collect::<Result<Vec<_>>>();
        let none = || CasError::new(ErrorKind::InvalidArgument, "the asset has no digest");
        let digest = parse(self.digest.as_ref().ok_or_else(none)?)?;
        let mut references = References {
            blobs: all(&self.blobs)?,
            directories: all(&self.directories)?,
            ..References::default()
        };
        match kind {
            AssetKind::Blob => references.blobs.push(digest),
            AssetKind::Directory => references.directories.push(digest),
        }
        references.check()?;
        Ok(references)
    }
}

/// The second in which something expires; what has no time is past.
fn time(timestamp: &Timestamp) -> SystemTime {
    let seconds = u64::try_from(timestamp.seconds).unwrap_or(0);
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}
