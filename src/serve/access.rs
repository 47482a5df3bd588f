//! Who may do what on the server's ports.

use std::sync::Arc;
use std::time::Duration;

use zako_access::{AccessControl, AccessError, AccessRules, Prepared};
use zako_core::access::Authorizer;

use super::abort_on_drop::AbortOnDrop;
use super::file_mark::FileMark;
use crate::config::AccessConfig;
use crate::failure::{Exit, Failure};

/// How often it is looked whether the keys of JWTs have changed.
const LOOK_AT_KEYS: Duration = Duration::from_secs(5);

/// The rules in force, if there are any.
#[derive(Debug)]
pub(super) struct Access {
    control: Option<AccessControl>,
    _watching: Option<AbortOnDrop>,
}

impl Access {
    /// Puts the configured rules in force.
    ///
    /// # Errors
    /// They make no sense, or what they refer to can't be read.
    pub(super) fn of(config: &AccessConfig) -> Result<Self, Failure> {
        let Some(rules) = config.rules() else {
            return Ok(Self {
                control: None,
                _watching: None,
            });
        };
        // Before it is read: what changes meanwhile is seen.
        let keys = mark(&rules);
        let control = AccessControl::new(rules).map_err(failure)?;
        tracing::info!(
            identities = config.identities.len(),
            anonymous = %config.anonymous.value,
            jwt = config.jwt.is_some(),
            "callers need a role"
        );
        let watching = AbortOnDrop::spawn(watch(control.clone(), keys));
        Ok(Self {
            control: Some(control),
            _watching: Some(watching),
        })
    }

    /// What the ports ask who their callers are.
    pub(super) fn authorizer(&self) -> Option<Arc<dyn Authorizer>> {
        let control = self.control.clone()?;
        Some(Arc::new(control))
    }

    /// The rules of another configuration, checked, for [`replace`](Self::replace).
    ///
    /// # Errors
    /// They can't be put in force: one that asks who callers are can't be told to stop
    /// asking while it runs, nor the other way round.
    pub(super) fn prepare(&self, config: &AccessConfig) -> Result<Option<Prepared>, Failure> {
        match (&self.control, config.rules()) {
            (Some(_), Some(rules)) => Prepared::new(rules).map(Some).map_err(failure),
            (None, None) => Ok(None),
            (Some(_), None) => Err(Failure::usage(
                "[access] became empty: then everyone may do everything, which takes a restart",
            )),
            (None, Some(_)) => Err(Failure::usage(
                "[access] was empty, and to ask who callers are takes a restart",
            )),
        }
    }

    /// Puts prepared rules in force, on open connections too.
    pub(super) fn replace(&self, prepared: Option<Prepared>) {
        if let (Some(control), Some(prepared)) = (&self.control, prepared) {
            control.replace(prepared);
        }
    }
}

/// Whether what is configured can be put in force.
///
/// # Errors
/// As for [`Access::of`].
pub(crate) fn allowed(config: &AccessConfig) -> Result<(), Failure> {
    match config.rules() {
        Some(rules) => Prepared::new(rules).map(drop).map_err(failure),
        None => Ok(()),
    }
}

/// Reads the keys of JWTs again when their file changes.
async fn watch(control: AccessControl, mut seen: Option<FileMark>) {
    loop {
        tokio::time::sleep(LOOK_AT_KEYS).await;
        let now = mark(&control.rules());
        if now == seen {
            continue;
        }
        seen = now;
        match control.refresh() {
            Ok(()) => tracing::info!("the keys of JWTs changed and were read"),
            Err(error) => tracing::warn!(%error, "the keys of JWTs stay those that were read"),
        }
    }
}

/// Of the file of the keys, if there is one.
fn mark(rules: &AccessRules) -> Option<FileMark> {
    let jwt = rules.jwt.as_ref()?;
    Some(FileMark::of(&jwt.jwks))
}

fn failure(error: AccessError) -> Failure {
    let exit = match error {
        AccessError::Keys { .. } => Exit::Failed,
        _ => Exit::Usage,
    };
    Failure::new(exit, format!("[access]: {error}"))
}
