//! `zako serve`: a store behind a server.

mod abort_on_drop;
mod access;
mod admin;
mod build_tools;
mod configured;
mod contradictions;
mod file_mark;
mod grpc;
mod hand_over;
mod life;
mod limits;
mod metrics;
mod rdma;
mod ready;
mod reload;
mod service_manager;
mod signals;
mod sockets;
mod store;
mod tls;

use std::sync::Arc;

use clap::Args;
use futures::FutureExt;
use futures::future::OptionFuture;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use zako_admin::{RecentEvents, State};
use zako_core::observe::Observer;
use zako_core::store::LocalStore;
use zako_reapi::Cache;
use zako_telemetry::Metrics;

use crate::config::{
    AccessKeys, AdminKeys, Layers, Ledger, LimitsKeys, ServerKeys, TelemetryKeys, TlsKeys,
};
use crate::failure::Failure;
use crate::log::LogFilter;
use crate::output::Output;
use abort_on_drop::AbortOnDrop;
use access::Access;
pub(crate) use access::allowed as access_allowed;
use admin::Admin;
use configured::Configured;
pub(crate) use contradictions::contradictions;
use hand_over::Successor;
use life::{Ending, Life};
use limits::CallerQuotas;
use rdma::Offer;
use ready::Ready;
use reload::{Certificates, Drain, Log, Reloader, Rules, Scrub};
use signals::Signals;
use sockets::Sockets;
use tls::Tls;
pub(crate) use tls::{CERTIFICATE_ENDS_SOON, certificate, is_exposed};

/// Serve a store
///
/// When it is ready, the first line on stdout is `zako: ready grpc=ADDR:PORT`
/// (with --json an object: {"event":"ready","grpc":"ADDR:PORT"}), with
/// ` http=ADDR:PORT` behind it if there is an HTTP cache, ` admin=ADDR:PORT` if
/// there is an admin port, and ` rdma=DEVICE:PORT:GID_INDEX` if RDMA is offered.
/// The admin port answers before that, while the store is opened. SIGTERM or
/// SIGINT ends it: what is in flight is finished or, after --drain-timeout,
/// parked for resumption; a second signal ends it at once. SIGUSR2 does the same
/// and then runs the program at its path anew, with the same sockets: nobody is
/// refused, who connects in between waits.
///
/// Sockets that a service manager hands on (LISTEN_FDS) are served instead of new
/// ones; their names are grpc, http and admin.
///
/// Traces go to an OpenTelemetry collector by the standard OTEL_* variables, as
/// OTEL_EXPORTER_OTLP_ENDPOINT=http://HOST:4317, or by the flags under Telemetry.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    server: ServerKeys,
    #[command(flatten)]
    admin: AdminKeys,
    #[command(flatten)]
    tls: TlsKeys,
    #[command(flatten)]
    access: AccessKeys,
    #[command(flatten)]
    limits: LimitsKeys,
    #[command(flatten)]
    telemetry: TelemetryKeys,
}

impl ServeArgs {
    /// The flags of traces and metrics, which are set up before the verb runs.
    pub(crate) fn telemetry(&self) -> &TelemetryKeys {
        &self.telemetry
    }
}

/// What a server has of its process.
struct Process<'a> {
    sockets: &'a mut Sockets,
    signals: Signals,
    successor: &'a Successor,
    reloader: Reloader,
}

/// What stands between callers and a server.
#[derive(Clone, Copy)]
struct Guards<'a> {
    tls: Option<&'a Tls>,
    access: &'a Access,
}

/// What a server is made of.
struct Parts<'a> {
    store: &'a LocalStore,
    cache: Option<&'a Cache>,
    guards: Guards<'a>,
    /// What callers may use, if that is limited.
    quotas: Option<&'a CallerQuotas>,
    admin: &'a Admin,
    metrics: &'a Metrics,
    /// Is told of all that happens.
    observer: Arc<dyn Observer>,
}

pub(crate) async fn run(
    args: ServeArgs,
    layers: &Layers<'_>,
    events: RecentEvents,
    log: LogFilter,
    output: &mut Output,
) -> Result<(), Failure> {
    let ledger = Ledger::default();
    let configured = Configured::resolve(args.clone(), &layers.noting(&ledger))?;
    let mut reloader = Reloader::new(args, layers.file().clone(), &ledger);
    reloader.add(Log(log));
    let config = &configured.server;
    let successor = Successor::new(layers.file().path())?;
    let mut sockets = Sockets::from_environment()?;
    tls::allowed(&configured.tls, config, &configured.admin)?;
    tls::allowed_on(&configured.tls, sockets.all_inherited())?;
    let tls = Tls::open(&configured.tls)?;
    if let Some(tls) = &tls {
        reloader.add(Certificates(tls.clone()));
    }
    let offer = rdma::offer(config)?;
    let access = Arc::new(Access::of(&configured.access)?);
    // From here on a signal is a wish to end well, also before the first line.
    let signals = Signals::new()?;
    raise_file_limit();
    let _watchdog = service_manager::watchdog();
    let listen = sockets.grpc_address(&config.listen.value);
    let guards = Guards {
        tls: tls.as_ref(),
        access: &access,
    };
    let admin = Admin::start(&configured.admin, &listen, guards.tls, &mut sockets, events).await?;
    if let Some(authorizer) = access.authorizer() {
        admin.ask(authorizer);
    }
    reloader.add(Rules(Arc::clone(&access)));
    let mut process = Process {
        sockets: &mut sockets,
        signals,
        successor: &successor,
        reloader,
    };
    let outcome = with_store(&configured, offer, guards, &admin, &mut process, output).await;
    // The last: until here somebody may ask why the server isn't ready.
    admin.stop().await;
    match outcome? {
        Ending::Over => Ok(()),
        Ending::HandOver => Err(successor.become_it(&sockets)),
    }
}

/// Opens the store, serves it, and closes it.
async fn with_store(
    configured: &Configured,
    offer: Option<Offer>,
    guards: Guards<'_>,
    admin: &Admin,
    process: &mut Process<'_>,
    output: &mut Output,
) -> Result<Ending, Failure> {
    let config = &configured.server;
    let metrics = metrics::metrics(&configured.telemetry)?;
    if let Some(tls) = guards.tls {
        metrics::watch_certificate(&metrics, tls);
    }
    admin.show_metrics(&metrics);
    let observer = metrics::observer(&metrics, admin.recorder());
    admin.tell(&observer);
    let opening = service_manager::opening();
    let Some(store) = store::open(config, &observer, process).await? else {
        return Ok(Ending::Over);
    };
    let opened = store.clone();
    admin.readiness.opening(move || opened.opening_share());
    let quotas = CallerQuotas::open(&configured.limits, &config.data.value.0);
    let outcome = async {
        let cache = build_tools::cache(config, limits::staging(quotas.as_ref(), &store)).await?;
        let parts = Parts {
            store: &store,
            cache: cache.as_ref(),
            guards,
            quotas: quotas.as_ref(),
            admin,
            metrics: &metrics,
            observer,
        };
        let outcome = serve(configured, offer, &parts, process, opening, output).await;
        let closed = match cache {
            Some(cache) => cache.close().await.map_err(Failure::from),
            None => Ok(()),
        };
        outcome.and_then(|ending| closed.map(|()| ending))
    };
    let outcome = outcome.await;
    if let Some(quotas) = &quotas {
        quotas.save();
    }
    admin.readiness.reached(State::Draining);
    admin.forget();
    metrics.end().await;
    let closed = store.close().await.map_err(Failure::from);
    outcome.and_then(|ending| closed.map(|()| ending))
}

/// Takes the addresses and answers there, to the end.
async fn serve(
    configured: &Configured,
    offer: Option<Offer>,
    parts: &Parts<'_>,
    process: &mut Process<'_>,
    opening: AbortOnDrop,
    output: &mut Output,
) -> Result<Ending, Failure> {
    let (store, admin) = (parts.store, parts.admin);
    let sockets = &mut *process.sockets;
    let listen = sockets.grpc_address(&configured.server.listen.value);
    let rdma = offer.as_ref().map(|offer| offer.place.to_string());
    let _keeping = parts.quotas.and_then(CallerQuotas::keep);
    let _watching = parts.guards.tls.map(Tls::watch);
    let server = grpc::bind(configured, parts, offer, &listen, sockets).await?;
    metrics::watch(parts.metrics, server.figures(), store);
    let http = build_tools::http(configured, parts, &listen, sockets).await?;
    sockets.close_unused();
    let ready = Ready::of(&server, http.as_ref(), admin, rdma);
    admin.show(&configured.server, &ready, store, server.figures());
    tracing::info!(data = %configured.server.data.value, grpc = %ready.grpc, "serving");
    ready.tell(output)?;

    let _sweeping = parts.cache.map(build_tools::sweep);
    process.reloader.add(Drain::of(&server, http.as_ref()));
    process.reloader.add(Scrub(store.clone()));
    if let Some(quotas) = parts.quotas {
        process.reloader.add(quotas.clone());
    }
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    // The sender lives until the signal.
    let stopped = stopped.map(drop).shared();
    let life = Life {
        config: &configured.server,
        process,
        readiness: &admin.readiness,
        notice: server.notice(),
        stop,
    };
    let serving = async {
        let http = http.map(|http| http.serve(stopped.clone()));
        let http = OptionFuture::from(http);
        let (outcome, _) = tokio::join!(server.serve(stopped.clone()), http);
        outcome
    };
    let broken = store::broken(store, &admin.readiness, opening);
    life.live(serving, broken).await
}

/// Every connection and every large blob that is read takes a file.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!("can't raise the limit of open files: {error}");
    }
}
