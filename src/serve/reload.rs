//! Reading the configuration again while the server runs.

use std::sync::Arc;

use zako_core::server::{BoundServer, DrainLimit};
use zako_core::store::LocalStore;
use zako_reapi::http::HttpServer;

use super::access::Access;
use super::limits::CallerQuotas;
use super::tls::Tls;
use super::{Configured, ServeArgs};
use crate::config::{ConfigFile, Layers, Ledger, Place, Snapshot};
use crate::failure::Failure;
use crate::local_store::scrub_rate;
use crate::log::LogFilter;

/// A part of a running server that takes new values.
pub(super) trait Replace: Send {
    /// Whether it takes those of this key.
    fn takes(&self, place: Place) -> bool;

    /// Makes all ready that can fail, and changes nothing.
    ///
    /// # Errors
    /// The new configuration can't be had.
    fn prepare(&self, new: &Configured) -> Result<Apply, Failure>;
}

/// Puts what was prepared in force.
pub(super) type Apply = Box<dyn FnOnce() + Send>;

/// What reads the configuration again.
pub(super) struct Reloader {
    args: ServeArgs,
    file: ConfigFile,
    /// What the server was started with, for what no part takes.
    first: Snapshot,
    last: Snapshot,
    parts: Vec<Box<dyn Replace>>,
}

/// How long an end may take.
pub(super) struct Drain(Vec<DrainLimit>);

/// The server's certificates, if it has any.
pub(super) struct Certificates(pub(super) Tls);

/// Who may do what.
pub(super) struct Rules(pub(super) Arc<Access>);

/// How fast the store is re-hashed.
pub(super) struct Scrub(pub(super) LocalStore);

/// What is logged.
pub(super) struct Log(pub(super) LogFilter);

/// Values that are asked for when they are needed.
pub(super) struct Asked;

impl Reloader {
    /// For a server that was started with these.
    pub(super) fn new(args: ServeArgs, file: ConfigFile, ledger: &Ledger) -> Self {
        let first = Snapshot::new(&file, ledger);
        Self {
            args,
            file,
            last: first.clone(),
            first,
            parts: vec![Box::new(Asked)],
        }
    }

    pub(super) fn add(&mut self, part: impl Replace + 'static) {
        self.parts.push(Box::new(part));
    }

    /// Puts what the configuration says now in force, as far as it can be: all of that, or
    /// nothing if any of it makes no sense. Says so in the log.
    ///
    /// # Errors
    /// Why nothing changed.
    pub(super) fn reload(&mut self) -> Result<Configured, Failure> {
        let file = self.file.again()?;
        let ledger = Ledger::default();
        let layers = Layers::new(&file).noting(&ledger);
        let new = Configured::resolve(self.args.clone(), &layers)?;
        let prepared: Result<Vec<_>, _> =
            self.parts.iter().map(|part| part.prepare(&new)).collect();
        for apply in prepared? {
            apply();
        }
        let now = Snapshot::new(&file, &ledger);
        let is_taken = |place: &Place| self.parts.iter().any(|part| part.takes(*place));
        let is_own = |place: &Place| place.0 != "client";
        let changed = self.last.differences(&now).into_iter();
        let changed: Vec<_> = changed.filter(is_taken).collect();
        let waiting = self.first.differences(&now).into_iter();
        let waiting: Vec<_> = waiting
            .filter(|place| is_own(place) && !is_taken(place))
            .collect();
        tracing::info!(
            "the configuration was read again; changed: {}",
            names(&changed)
        );
        if !waiting.is_empty() {
            tracing::warn!("these changes need a restart: {}", names(&waiting));
        }
        (self.file, self.last) = (file, now);
        Ok(new)
    }
}

impl Drain {
    pub(super) fn of(server: &BoundServer, http: Option<&HttpServer>) -> Self {
        let http = http.map(HttpServer::drain_limit);
        let limits = [Some(server.drain_limit()), http];
        Self(limits.into_iter().flatten().collect())
    }
}

fn names(places: &[Place]) -> String {
    if places.is_empty() {
        return "nothing".to_owned();
    }
    let names: Vec<_> = places
        .iter()
        .map(|(table, key)| format!("{table}.{key}"))
        .collect();
    names.join(", ")
}

impl Replace for Drain {
    fn takes(&self, place: Place) -> bool {
        place == ("server", "drain-timeout")
    }

    fn prepare(&self, new: &Configured) -> Result<Apply, Failure> {
        let (limits, limit) = (self.0.clone(), new.server.drain_timeout.value.0);
        Ok(Box::new(move || {
            limits.iter().for_each(|one| one.set(limit))
        }))
    }
}

impl Replace for Certificates {
    fn takes(&self, (table, key): Place) -> bool {
        table == "tls" && key != "allow-plaintext"
    }

    fn prepare(&self, new: &Configured) -> Result<Apply, Failure> {
        let Some(next) = Tls::prepare(&new.tls)? else {
            return Err(Failure::usage(
                "TLS can't be switched off while the server runs",
            ));
        };
        let tls = self.0.clone();
        Ok(Box::new(move || tls.apply(next)))
    }
}

impl Replace for Rules {
    fn takes(&self, (table, _): Place) -> bool {
        table == "access"
    }

    fn prepare(&self, new: &Configured) -> Result<Apply, Failure> {
        let prepared = self.0.prepare(&new.access)?;
        let access = Arc::clone(&self.0);
        Ok(Box::new(move || access.replace(prepared)))
    }
}

impl Replace for CallerQuotas {
    fn takes(&self, (table, key): Place) -> bool {
        table == "limits" && ["default", "identity"].contains(&key)
    }

    fn prepare(&self, new: &Configured) -> Result<Apply, Failure> {
        let (quotas, limits) = (self.clone(), new.limits.clone());
        Ok(Box::new(move || quotas.replace(&limits)))
    }
}

impl Replace for Scrub {
    fn takes(&self, place: Place) -> bool {
        place == ("server", "scrub-rate")
    }

    fn prepare(&self, new: &Configured) -> Result<Apply, Failure> {
        let (store, rate) = (self.0.clone(), scrub_rate(&new.server));
        // A round that is under way would begin anew.
        let same = store.scrub_rate() == rate;
        Ok(Box::new(move || {
            if !same {
                store.set_scrub_rate(rate);
            }
        }))
    }
}

impl Replace for Log {
    fn takes(&self, place: Place) -> bool {
        place == ("telemetry", "log")
    }

    fn prepare(&self, new: &Configured) -> Result<Apply, Failure> {
        self.0.prepare(new.telemetry.log.as_deref())
    }
}

impl Replace for Asked {
    fn takes(&self, place: Place) -> bool {
        place == ("server", "drain-delay")
    }

    fn prepare(&self, _: &Configured) -> Result<Apply, Failure> {
        Ok(Box::new(|| ()))
    }
}
