//! `zako serve`: a store behind a server.

mod abort_on_drop;
mod access;
mod admin;
mod build_tools;
mod contradictions;
mod file_mark;
mod hand_over;
mod life;
mod limits;
mod metrics;
mod rdma;
mod reload;
mod service_manager;
mod signals;
mod sockets;
mod tls;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures::FutureExt;
use futures::future::OptionFuture;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use zako_admin::{RecentEvents, State};
use zako_core::observe::Observer;
use zako_core::server::{MaintenanceAccess, Server, ServerOptions};
use zako_core::store::LocalStore;
use zako_reapi::Cache;
use zako_reapi::http::HttpServer;
use zako_telemetry::Metrics;

use crate::config::{
    AccessConfig, AccessKeys, AdminConfig, AdminKeys, Layers, Ledger, LimitsConfig, LimitsKeys,
    MaintenanceChoice, ServerConfig, ServerKeys, TelemetryConfig, TelemetryKeys, TlsConfig,
    TlsKeys,
};
use crate::failure::{Exit, Failure};
use crate::local_store::{open_store, opening};
use crate::log::LogFilter;
use crate::output::Output;
use abort_on_drop::AbortOnDrop;
use access::Access;
pub(crate) use access::allowed as access_allowed;
use admin::Admin;
pub(crate) use contradictions::contradictions;
use hand_over::Successor;
use life::{Ending, Life};
use limits::CallerQuotas;
use rdma::Offer;
use reload::{Certificates, Drain, Log, Reloader, Rules, Scrub};
use signals::Signals;
use sockets::{Sockets, Use};
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

/// What a server is run with.
#[derive(Debug)]
struct Configured {
    server: ServerConfig,
    admin: AdminConfig,
    tls: TlsConfig,
    access: AccessConfig,
    limits: LimitsConfig,
    telemetry: TelemetryConfig,
}

impl Configured {
    fn resolve(args: ServeArgs, layers: &Layers<'_>) -> Result<Self, Failure> {
        Ok(Self {
            server: ServerConfig::resolve(args.server, layers)?,
            admin: AdminConfig::resolve(args.admin, layers)?,
            tls: TlsConfig::resolve(args.tls, layers)?,
            access: AccessConfig::resolve(args.access, layers)?,
            limits: LimitsConfig::resolve(args.limits, layers)?,
            telemetry: TelemetryConfig::resolve(args.telemetry, layers)?,
        })
    }
}

#[derive(Serialize)]
struct Ready {
    event: &'static str,
    grpc: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    admin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rdma: Option<String>,
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
    let listen = sockets.inherited(Use::Grpc);
    let listen = listen.unwrap_or(&config.listen.value).clone();
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
    let Some(store) = open(config, &observer, process).await? else {
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
            opening,
        };
        let outcome = serve(configured, offer, parts, process, output).await;
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

/// Opens the store. Who was handed sockets waits for the server before it to close the store;
/// `None` if a signal ended that.
async fn open(
    config: &ServerConfig,
    observer: &Arc<dyn Observer>,
    process: &mut Process<'_>,
) -> Result<Option<LocalStore>, Failure> {
    let mut told = false;
    loop {
        match open_store(config, Some(Arc::clone(observer))).await {
            Ok(store) => return Ok(Some(store)),
            Err(failure) if failure.exit() == Exit::Busy && process.sockets.are_from_outside() => {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!("waiting for the server that has the store to close it");
                }
            }
            Err(failure) => return Err(failure),
        }
        tokio::select! {
            () = tokio::time::sleep(LOCK_PAUSE) => {}
            _ = process.signals.end() => return Ok(None),
        }
    }
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
    /// Until the store is open.
    opening: AbortOnDrop,
}

/// How often a store that another process has is asked for.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

async fn serve(
    configured: &Configured,
    offer: Option<Offer>,
    parts: Parts<'_>,
    process: &mut Process<'_>,
    output: &mut Output,
) -> Result<Ending, Failure> {
    let config = &configured.server;
    let Parts {
        store,
        cache,
        guards,
        quotas,
        admin,
        metrics,
        observer,
        opening: still_opening,
    } = parts;
    let Guards { tls, access } = guards;
    let sockets = &mut *process.sockets;
    let listen = sockets.inherited(Use::Grpc);
    let listen = &listen.unwrap_or(&config.listen.value).clone();
    let mut options = server_options(config);
    limits::bound(&mut options, &configured.limits);
    let mut server = Server::new(limits::staging(quotas, store), options)
        .with_maintenance(Arc::new(store.clone()))
        .with_observer(Arc::clone(&observer));
    if let Some(quotas) = quotas {
        server = server.with_quota(quotas.quota());
    }
    let _keeping = quotas.and_then(CallerQuotas::keep);
    if let Some(cache) = cache {
        server = server.with_face(build_tools::face(cache));
    }
    if let Some(authorizer) = access.authorizer() {
        server = server.with_authorizer(authorizer);
    }
    let rdma = offer.as_ref().map(|offer| offer.place.to_string());
    if let Some(offer) = offer {
        server = server.with_rdma(offer.options);
    }
    let acceptor = tls.map(Tls::acceptor);
    if let Some(acceptor) = &acceptor {
        server = server.with_tls(acceptor.clone());
    }
    let _watching = tls.map(Tls::watch);
    let taken = sockets.take(Use::Grpc, listen).await;
    let taken = taken.and_then(|socket| server.bind_to(socket));
    let server = taken.map_err(|error| {
        Failure::from(error)
            .context(format!("listening on {listen}"))
            .advise("Is another server there? Take another --listen; port 0 takes a free one.")
    })?;
    metrics::watch(metrics, server.figures(), store);
    let http = match cache {
        Some(cache) => {
            build_tools::http(configured, listen, cache, store, acceptor, sockets).await?
        }
        None => None,
    };
    let http = http.map(|http| http.with_observer(observer));
    let http = http.map(|http| limits::http(quotas, http));
    let http = http.map(|http| match access.authorizer() {
        Some(authorizer) => http.with_authorizer(authorizer),
        None => http,
    });
    sockets.close_unused();
    let ready = Ready {
        event: "ready",
        grpc: server.local_addr().to_string(),
        http: http.as_ref().map(|http| http.local_addr().to_string()),
        admin: admin.addr().map(ToString::to_string),
        rdma,
    };
    admin.show(config, &ready, store, server.figures());
    tracing::info!(data = %config.data.value, grpc = %ready.grpc, "serving");
    match output.record(&ready).and_then(|()| output.flush()) {
        // A server needs nobody who reads its output.
        Err(failure) if failure.exit() == Exit::ClosedOutput => {}
        outcome => outcome?,
    }

    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    // The sender lives until the signal.
    let stopped = stopped.map(drop).shared();
    let _sweeping = cache.map(build_tools::sweep);
    let limits = [
        Some(server.drain_limit()),
        http.as_ref().map(HttpServer::drain_limit),
    ];
    process
        .reloader
        .add(Drain(limits.into_iter().flatten().collect()));
    process.reloader.add(Scrub(store.clone()));
    if let Some(quotas) = quotas {
        process.reloader.add(quotas.clone());
    }
    let notice = server.notice();
    let serving = async {
        let http = http.map(|http| http.serve(stopped.clone()));
        let http = OptionFuture::from(http);
        let (outcome, _) = tokio::join!(server.serve(stopped.clone()), http);
        outcome
    };
    // A store whose index can't be rebuilt serves nobody.
    let broken = async {
        match store.opened().await {
            Ok(()) => {
                drop(still_opening);
                admin.readiness.reached(State::Ready);
                service_manager::ready();
                std::future::pending().await
            }
            Err(error) => opening(error),
        }
    };
    let life = Life {
        config,
        process,
        readiness: &admin.readiness,
        notice,
        stop,
    };
    life.live(serving, broken).await
}

fn server_options(config: &ServerConfig) -> ServerOptions {
    let mut options = ServerOptions::default();
    options.require_token = config.require_token.value;
    options.token_ttl = config.token_ttl.value.0;
    options.session_idle = config.session_idle.value.0;
    options.drain_timeout = config.drain_timeout.value.0;
    options.upload_idle_timeout = config.upload_idle_timeout.value.0;
    options.maintenance = match config.maintenance.value {
        MaintenanceChoice::Loopback => MaintenanceAccess::Loopback,
        MaintenanceChoice::Anyone => MaintenanceAccess::Anyone,
        MaintenanceChoice::Nobody => MaintenanceAccess::Nobody,
    };
    options
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

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "zako: ready grpc={}", self.grpc)?;
        if let Some(http) = &self.http {
            write!(f, " http={http}")?;
        }
        if let Some(admin) = &self.admin {
            write!(f, " admin={admin}")?;
        }
        match &self.rdma {
            Some(rdma) => write!(f, " rdma={rdma}"),
            None => Ok(()),
        }
    }
}
