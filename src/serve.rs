//! `zako serve`: a store behind a server.

mod access;
mod admin;
mod build_tools;
mod contradictions;
mod metrics;
mod rdma;
mod tls;

use std::fmt;
use std::io;
use std::sync::Arc;

use clap::Args;
use futures::FutureExt;
use futures::future::OptionFuture;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use zako_admin::{RecentEvents, State};
use zako_core::observe::Observer;
use zako_core::server::{MaintenanceAccess, Server, ServerOptions};
use zako_core::store::LocalStore;
use zako_reapi::Cache;
use zako_telemetry::Metrics;

use crate::config::{
    AccessConfig, AccessKeys, AdminConfig, AdminKeys, Layers, LimitsConfig, LimitsKeys,
    MaintenanceChoice, ServerConfig, ServerKeys, TelemetryConfig, TelemetryKeys, TlsConfig,
    TlsKeys,
};
use crate::failure::{Exit, Failure};
use crate::local_store::{open_store, opening};
use crate::output::Output;
use access::Access;
use admin::Admin;
pub(crate) use contradictions::contradictions;
use rdma::Offer;
use tls::Tls;

/// Serve a store
///
/// When it is ready, the first line on stdout is `zako: ready grpc=ADDR:PORT`
/// (with --json an object: {"event":"ready","grpc":"ADDR:PORT"}), with
/// ` http=ADDR:PORT` behind it if there is an HTTP cache, ` admin=ADDR:PORT` if
/// there is an admin port, and ` rdma=DEVICE:PORT:GID_INDEX` if RDMA is offered.
/// The admin port answers before that, while the store is opened. SIGTERM or
/// SIGINT ends it: what is in flight is finished or, after --drain-timeout,
/// parked for resumption; a second signal ends it at once.
///
/// Traces go to an OpenTelemetry collector by the standard OTEL_* variables, as
/// OTEL_EXPORTER_OTLP_ENDPOINT=http://HOST:4317, or by the flags under Telemetry.
#[derive(Args, Debug)]
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
    _limits: LimitsConfig,
    telemetry: TelemetryConfig,
}

impl Configured {
    fn resolve(args: ServeArgs, layers: &Layers<'_>) -> Result<Self, Failure> {
        Ok(Self {
            server: ServerConfig::resolve(args.server, layers)?,
            admin: AdminConfig::resolve(args.admin, layers)?,
            tls: TlsConfig::resolve(args.tls, layers)?,
            access: AccessConfig::resolve(args.access, layers)?,
            _limits: LimitsConfig::resolve(args.limits, layers)?,
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
    output: &mut Output,
) -> Result<(), Failure> {
    let configured = Configured::resolve(args, layers)?;
    let config = &configured.server;
    tls::allowed(&configured.tls, config, &configured.admin)?;
    let tls = Tls::open(&configured.tls)?;
    let offer = rdma::offer(config)?;
    let access = Access::of(&configured.access)?;
    // From here on a signal is a wish to end well, also before the first line.
    let mut signals = Signals::new()?;
    raise_file_limit();
    let listen = &config.listen.value;
    let admin = Admin::start(&configured.admin, listen, tls.as_ref(), events).await?;
    if let Some(authorizer) = access.authorizer() {
        admin.ask(authorizer);
    }
    let guards = Guards {
        tls: tls.as_ref(),
        access: &access,
    };
    let outcome = with_store(&configured, offer, guards, &admin, &mut signals, output).await;
    // The last: until here somebody may ask why the server isn't ready.
    admin.stop().await;
    outcome
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
    signals: &mut Signals,
    output: &mut Output,
) -> Result<(), Failure> {
    let config = &configured.server;
    let metrics = metrics::metrics(&configured.telemetry)?;
    admin.show_metrics(&metrics);
    let observer = metrics::observer(&metrics, admin.recorder());
    let store = open_store(config, Some(Arc::clone(&observer))).await?;
    let outcome = async {
        let cache = build_tools::cache(config, &store).await?;
        let parts = Parts {
            store: &store,
            cache: cache.as_ref(),
            guards,
            admin,
            metrics: &metrics,
            observer,
        };
        let outcome = serve(config, offer, parts, signals, output).await;
        let closed = match cache {
            Some(cache) => cache.close().await.map_err(Failure::from),
            None => Ok(()),
        };
        outcome.and(closed)
    };
    let outcome = outcome.await;
    admin.readiness.reached(State::Draining);
    admin.forget();
    metrics.end().await;
    let closed = store.close().await.map_err(Failure::from);
    outcome.and(closed)
}

/// What a server is made of.
struct Parts<'a> {
    store: &'a LocalStore,
    cache: Option<&'a Cache>,
    guards: Guards<'a>,
    admin: &'a Admin,
    metrics: &'a Metrics,
    /// Is told of all that happens.
    observer: Arc<dyn Observer>,
}

async fn serve(
    config: &ServerConfig,
    offer: Option<Offer>,
    parts: Parts<'_>,
    signals: &mut Signals,
    output: &mut Output,
) -> Result<(), Failure> {
    let Parts {
        store,
        cache,
        guards,
        admin,
        metrics,
        observer,
    } = parts;
    let Guards { tls, access } = guards;
    let listen = &config.listen.value;
    let mut server = Server::new(Arc::new(store.clone()), server_options(config))
        .with_maintenance(Arc::new(store.clone()))
        .with_observer(Arc::clone(&observer));
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
    let server = server.bind(listen).await.map_err(|error| {
        Failure::from(error)
            .context(format!("listening on {listen}"))
            .advise("Is another server there? Take another --listen; port 0 takes a free one.")
    })?;
    metrics::watch(metrics, server.figures(), store);
    let http = match cache {
        Some(cache) => build_tools::http(config, cache, store, acceptor).await?,
        None => None,
    };
    let http = http.map(|http| http.with_observer(observer));
    let http = http.map(|http| match access.authorizer() {
        Some(authorizer) => http.with_authorizer(authorizer),
        None => http,
    });
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
    let serving = async {
        let http = http.map(|http| http.serve(stopped.clone()));
        let http = OptionFuture::from(http);
        let (outcome, _) = tokio::join!(server.serve(stopped.clone()), http);
        outcome
    };
    tokio::pin!(serving);
    // A store whose index can't be rebuilt serves nobody.
    let broken = async {
        match store.opened().await {
            Ok(()) => {
                admin.readiness.reached(State::Ready);
                std::future::pending().await
            }
            Err(error) => opening(error),
        }
    };
    tokio::select! {
        outcome = &mut serving => return Ok(outcome?),
        failure = broken => return Err(failure),
        name = signals.next() => tracing::info!("{name}: finishing what is in flight"),
    }
    admin.readiness.reached(State::Draining);
    drop(stop);
    tokio::select! {
        outcome = serving => Ok(outcome?),
        name = signals.next() => Err(Failure::new(
            Exit::Failed,
            format!("{name} again: ended with transfers in flight, which are parked"),
        )),
    }
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

/// The signals that ask for an end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error: io::Error| {
                Failure::new(Exit::Failed, format!("listening for signals: {error}"))
            })
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
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
