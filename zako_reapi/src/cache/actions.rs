//! Action results, under the digests of their actions.
//!
//! A result is a value like any other. It is stored after what it names, so that segments
//! that are evicted in their order take it last; and each hit leases it together with all
//! that it names, so that neither outlives the other by much. Where the result is lost
//! first all the same, its action runs again and no build breaks.

use bytes::Bytes;
use prost::Message;
use zako_core::alias::AliasKey;
use zako_core::cas::{CasError, ErrorKind, Result};

use super::references::References;
use super::{ActionUpdates, Cache};
use crate::digest::RemoteDigest;
use crate::proto::reapi::ActionResult;

/// A result that is there with all that it names.
#[derive(Debug)]
pub(crate) struct Hit {
    /// As it was stored.
    pub(crate) data: Bytes,
    /// What it says.
    pub(crate) result: Box<ActionResult>,
}

/// What is stored under an action's digest.
enum Entry {
    Result(Box<ActionResult>, References),
    /// What only its client can read.
    Opaque,
}

impl Cache {
    /// The result of an action, as it was stored; `None` if there is none, or something
    /// that it names is gone. All that it names is leased.
    ///
    /// What isn't an action result is given back unlooked at.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn action(&self, instance: &str, action: &RemoteDigest) -> Result<Option<Bytes>> {
        let Some(data) = self.leased_value(&key(instance, action)).await? else {
            return Ok(None);
        };
        let whole = match entry(action, &data) {
            Ok(Entry::Result(_, references)) => self.keep(&references).await?,
            Ok(Entry::Opaque) => true,
            Err(_) => false,
        };
        Ok(whole.then_some(data))
    }

    /// As [`action`](Self::action), for those who need to know what the result says:
    /// what isn't one is none.
    pub(crate) async fn action_result(
        &self,
        instance: &str,
        action: &RemoteDigest,
    ) -> Result<Option<Hit>> {
        let Some(data) = self.leased_value(&key(instance, action)).await? else {
            return Ok(None);
        };
        match entry(action, &data) {
            Ok(Entry::Result(result, references)) if self.keep(&references).await? => {
                Ok(Some(Hit { data, result }))
            }
            _ => Ok(None),
        }
    }

    /// Stores the result of an action in the place of what was there: an encoded
    /// `ActionResult`, or anything else that its clients understand. What it names may
    /// come later: it isn't found until all of it is there.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`] if updates are refused, [`ErrorKind::NoSpace`] if
    /// the result is too long or names too much; those of the store.
    pub async fn set_action(
        &self,
        instance: &str,
        action: &RemoteDigest,
        data: Bytes,
    ) -> Result<()> {
        if self.options.action_updates == ActionUpdates::Refused {
            let text = "action results are not taken here: this cache is read only";
            return Err(CasError::new(ErrorKind::PermissionDenied, text));
        }
        let most = self.options.max_value_bytes;
        if data.len() as u64 > most {
            let text = format!("an action result of {} bytes; {most} are taken", data.len());
            return Err(CasError::new(ErrorKind::NoSpace, text));
        }
        entry(action, &data)?;
        if self.options.action_updates == ActionUpdates::Dropped {
            return Ok(());
        }
        self.set_value(key(instance, action), data, None).await
    }

    /// As [`set_action`](Self::set_action), for what has to be an `ActionResult` whose
    /// digests are good.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if it isn't.
    pub(crate) async fn set_action_result(
        &self,
        instance: &str,
        action: &RemoteDigest,
        data: Bytes,
    ) -> Result<()> {
        let result = ActionResult::decode(data.clone()).map_err(|error| {
            let text = "the action result does not decode";
            CasError::new(ErrorKind::InvalidArgument, text).with_source(error)
        })?;
        References::of_result(action.function(), &result)?;
        self.set_action(instance, action, data).await
    }
}

fn key(instance: &str, action: &RemoteDigest) -> AliasKey {
    let function = action.function().name();
    let parts = [instance.as_bytes(), function.as_bytes(), action.hash()];
    AliasKey::derive("zako 2026-11 action result", &parts)
}

/// What the bytes are. What decodes as an action result but has digests that are none is
/// taken for something else.
///
/// # Errors
/// [`ErrorKind::NoSpace`] for a result that names too much.
fn entry(action: &RemoteDigest, data: &Bytes) -> Result<Entry> {
    let Ok(result) = ActionResult::decode(data.clone()) else {
        return Ok(Entry::Opaque);
    };
    match References::of_result(action.function(), &result) {
        Ok(references) => Ok(Entry::Result(Box::new(result), references)),
        Err(error) if error.kind() == ErrorKind::InvalidArgument => Ok(Entry::Opaque),
        Err(error) => Err(error),
    }
}
