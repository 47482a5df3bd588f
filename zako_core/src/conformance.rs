//! The suite that checks an implementation of [`Cas`] against its contract.
//!
//! ```
//! use std::sync::Arc;
//! use zako_core::conformance;
//! use zako_core::store::MemoryStore;
//!
//! # tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
//! conformance::run_all(async || Arc::new(MemoryStore::new(1 << 30)) as _).await
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Every property is a function of its own too. A store under test needs room for
//! 64 MiB; its blobs are the suite's own, so it need not be empty.

mod batches;
mod concurrency;
mod integrity;
mod presence;
mod ranges;
mod samples;
mod staging;
mod staging_resumption;
mod uploads;
mod witness;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use batches::*;
pub use concurrency::*;
use futures::FutureExt;
use futures::future::BoxFuture;
pub use integrity::*;
pub use presence::*;
pub use ranges::*;
pub use staging::*;
pub use staging_resumption::*;
pub use uploads::*;

use crate::cas::{Cas, CasError, Staging};

/// What a property's function returns.
pub type Check = Result<(), Violation>;

/// How a store broke its contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    property: &'static str,
    detail: String,
}

/// All that [`run_all`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violations(pub Vec<Violation>);

/// A sentence of the contract, and the function that checks it.
pub struct Property<S: ?Sized = dyn Cas> {
    name: &'static str,
    check: fn(Arc<S>) -> BoxFuture<'static, Check>,
}

/// A property that takes longer is taken for hung.
const PATIENCE: Duration = Duration::from_secs(300);

macro_rules! properties {
    ($(#[$about:meta])* $all:ident: $store:ty; $($name:ident),* $(,)?) => {
        $(#[$about])*
        pub const $all: &[Property<$store>] = &[
            $(Property { name: stringify!($name), check: |cas| $name(cas).boxed() },)*
        ];
    };
}

properties![
    /// All properties.
    PROPERTIES: dyn Cas;
    stored_bytes_come_back,
    written_bytes_come_back,
    the_empty_blob_is_a_blob,
    wrong_bytes_are_refused,
    wrong_bytes_of_a_writer_are_refused,
    extents_show_the_same_bytes,
    ranges_at_all_edges,
    ranges_that_a_blob_lacks_are_refused,
    missing_keeps_order_and_duplicates,
    missing_takes_many_digests,
    missing_leases_what_is_present,
    absent_blobs_are_not_found,
    deleted_blobs_are_gone,
    deleted_blobs_can_be_stored_again,
    an_open_blob_outlives_its_deletion,
    what_exists_is_not_stored_again,
    any_steps_make_the_blob,
    a_parked_upload_resumes,
    a_dropped_upload_resumes,
    an_upload_resumes_before_what_is_held,
    an_upload_does_not_resume_beyond_what_is_held,
    too_few_bytes_are_refused,
    too_many_bytes_are_refused,
    a_wrong_resumption_leaves_nothing,
    a_discarded_upload_leaves_nothing,
    writers_of_one_blob_do_not_disturb_one_another,
    mixed_load_never_shows_wrong_bytes,
    dropped_futures_leave_the_store_whole,
    batches_store_what_is_right,
    batches_read_what_is_there,
    batches_may_be_large,
];

properties![
    /// All properties of a [`Staging`] store, beside [`PROPERTIES`].
    STAGING_PROPERTIES: dyn Staging;
    unnamed_blobs_get_their_digests,
    staged_bytes_become_their_blob,
    a_staged_size_may_be_unknown,
    a_parked_staging_resumes,
    a_dropped_staging_resumes,
    a_staging_resumes_up_to_what_is_staged,
    staged_sizes_are_kept,
    the_witness_has_the_last_word,
    a_wrong_staged_resumption_leaves_nothing,
    a_discarded_staging_leaves_nothing,
    keys_tell_stagings_apart,
    stagings_of_one_blob_do_not_disturb_one_another,
    dropped_stagings_leave_the_store_whole,
];

/// Checks all [`PROPERTIES`], one after another, each on a store from `make`.
///
/// # Errors
/// All violations, each with the property's name.
pub async fn run_all(make: impl AsyncFn() -> Arc<dyn Cas>) -> Result<(), Violations> {
    run(PROPERTIES, make).await
}

/// Checks all [`STAGING_PROPERTIES`], as [`run_all`] does those of every store.
///
/// # Errors
/// All violations, each with the property's name.
pub async fn run_all_staging(make: impl AsyncFn() -> Arc<dyn Staging>) -> Result<(), Violations> {
    run(STAGING_PROPERTIES, make).await
}

async fn run<S: ?Sized>(
    properties: &[Property<S>],
    make: impl AsyncFn() -> Arc<S>,
) -> Result<(), Violations> {
    let mut violations = Vec::new();
    for property in properties {
        if let Err(violation) = property.check(make().await).await {
            violations.push(violation);
        }
    }
    if violations.is_empty() {
        return Ok(());
    }
    Err(Violations(violations))
}

impl<S: ?Sized> Property<S> {
    /// The name of its function.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Checks the property. Needs a tokio runtime with time.
    ///
    /// # Errors
    /// The first violation, or that the store seems to hang.
    pub async fn check(&self, cas: Arc<S>) -> Check {
        let outcome = tokio::time::timeout(PATIENCE, (self.check)(cas)).await;
        outcome
            .unwrap_or_else(|_| Err(Violation::new("it hangs")))
            .map_err(|violation| Violation {
                property: self.name,
                ..violation
            })
    }
}

impl<S: ?Sized> Clone for Property<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: ?Sized> Copy for Property<S> {}

impl<S: ?Sized> fmt::Debug for Property<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Property").field(&self.name).finish()
    }
}

impl Violation {
    /// The property that was broken.
    pub fn property(&self) -> &'static str {
        self.property
    }

    /// What happened instead.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    fn new(detail: impl Into<String>) -> Self {
        Self {
            property: "contract",
            detail: detail.into(),
        }
    }
}

impl From<CasError> for Violation {
    fn from(error: CasError) -> Self {
        Self::new(format!("a call failed that must not: {error:?}"))
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.property, self.detail)
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} properties are broken:", self.0.len())?;
        self.0.iter().try_for_each(|one| writeln!(f, "  {one}"))
    }
}

impl std::error::Error for Violation {}
impl std::error::Error for Violations {}

/// Returns a violation unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::conformance::Violation::new(format!($($text)+)));
        }
    };
}

/// Returns a violation unless both are equal.
macro_rules! ensure_eq {
    ($left:expr, $right:expr, $($text:tt)+) => {
        match (&$left, &$right) {
            (left, right) => if left != right {
                return Err($crate::conformance::Violation::new(format!(
                    "{}: {left:?}, expected {right:?}", format_args!($($text)+)
                )));
            }
        }
    };
}

/// Returns a violation unless the outcome is an error of this kind.
macro_rules! ensure_error {
    ($outcome:expr, $kind:pat, $($text:tt)+) => {
        match $outcome {
            Err(error) if matches!(error.kind(), $kind) => error,
            Err(error) => return Err($crate::conformance::Violation::new(format!(
                "{}: expected {}, came {error:?}", format_args!($($text)+), stringify!($kind)
            ))),
            Ok(_) => return Err($crate::conformance::Violation::new(format!(
                "{}: expected {}, but it went well", format_args!($($text)+), stringify!($kind)
            ))),
        }
    };
}

use {ensure, ensure_eq, ensure_error};
