//! `zako serve`: a store behind a server.

mod build_tools;
mod limits;
mod metrics;
mod rdma;

use std::fmt;
use std::io;
use std::sync::Arc;

use clap::Args;
use futures::FutureExt;
use futures::future::OptionFuture;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};
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
use limits::CallerQuotas;
use rdma::Offer;

/// Serve a store
///
/// When it is ready, the first line on stdout is `zako: ready grpc=ADDR:PORT`
/// (with --json an object: {"event":"ready","grpc":"ADDR:PORT"}), with
/// ` http=ADDR:PORT` behind it if there is an HTTP cache, and
/// ` rdma=DEVICE:PORT:GID_INDEX` if RDMA is offered. SIGTERM or
/// SIGINT ends it: what is in flight is finished or, after --drain-timeout,
/// parked for resumption; a second signal ends it at once.
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

/// What a server is run with.
#[derive(Debug)]
struct Configured {
    server: ServerConfig,
    _admin: AdminConfig,
    _tls: TlsConfig,
    _access: AccessConfig,
    limits: LimitsConfig,
    _telemetry: TelemetryConfig,
}

impl Configured {
    fn resolve(args: ServeArgs, layers: &Layers<'_>) -> Result<Self, Failure> {
        Ok(Self {
            server: ServerConfig::resolve(args.server, layers)?,
            _admin: AdminConfig::resolve(args.admin, layers)?,
            _tls: TlsConfig::resolve(args.tls, layers)?,
            _access: AccessConfig::resolve(args.access, layers)?,
            limits: LimitsConfig::resolve(args.limits, layers)?,
            _telemetry: TelemetryConfig::resolve(args.telemetry, layers)?,
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
    rdma: Option<String>,
}

pub(crate) async fn run(
    args: ServeArgs,
    layers: &Layers<'_>,
    output: &mut Output,
) -> Result<(), Failure> {
    let configured = Configured::resolve(args, layers)?;
    let config = &configured.server;
    let offer = rdma::offer(config)?;
    // From here on a signal is a wish to end well, also before the first line.
    let mut signals = Signals::new()?;
    raise_file_limit();
    let metrics = metrics::metrics()?;
    let observer = metrics::observer(&metrics);
    let store = open_store(config, Some(Arc::clone(&observer))).await?;
    let quotas = CallerQuotas::open(&configured.limits, &config.data.value.0);
    let outcome = async {
        let staging = limits::staging(quotas.as_ref(), &store);
        let cache = build_tools::cache(config, staging).await?;
        let parts = Parts {
            store: &store,
            cache: cache.as_ref(),
            quotas: quotas.as_ref(),
            metrics: &metrics,
            observer,
        };
        let outcome = serve(&configured, offer, parts, &mut signals, output).await;
        let closed = match cache {
            Some(cache) => cache.close().await.map_err(Failure::from),
            None => Ok(()),
        };
        outcome.and(closed)
    };
    let outcome = outcome.await;
    if let Some(quotas) = &quotas {
        quotas.save();
    }
    metrics.end();
    let closed = store.close().await.map_err(Failure::from);
    outcome.and(closed)
}

/// What a server is made of.
struct Parts<'a> {
    store: &'a LocalStore,
    cache: Option<&'a Cache>,
    /// What callers may use, if that is limited.
    quotas: Option<&'a CallerQuotas>,
    metrics: &'a Metrics,
    /// Is told of all that happens.
    observer: Arc<dyn Observer>,
}

async fn serve(
    configured: &Configured,
    offer: Option<Offer>,
    parts: Parts<'_>,
    signals: &mut Signals,
    output: &mut Output,
) -> Result<(), Failure> {
    let config = &configured.server;
    let Parts {
        store,
        cache,
        quotas,
        metrics,
        observer,
    } = parts;
    let listen = &config.listen.value;
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
    let rdma = offer.as_ref().map(|offer| offer.place.to_string());
    if let Some(offer) = offer {
        server = server.with_rdma(offer.options);
    }
    let server = server.bind(listen).await.map_err(|error| {
        Failure::from(error)
            .context(format!("listening on {listen}"))
            .advise("Is another server there? Take another --listen; port 0 takes a free one.")
    })?;
    metrics::watch(metrics, server.figures(), store);
    let http = match cache {
        Some(cache) => build_tools::http(config, cache, store, &configured.limits).await?,
        None => None,
    };
    let http = http.map(|http| http.with_observer(observer));
    let http = http.map(|http| limits::http(quotas, http));
    let ready = Ready {
        event: "ready",
        grpc: server.local_addr().to_string(),
        http: http.as_ref().map(|http| http.local_addr().to_string()),
        rdma,
    };
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
            Ok(()) => std::future::pending().await,
            Err(error) => opening(error),
        }
    };
    tokio::select! {
        outcome = &mut serving => return Ok(outcome?),
        failure = broken => return Err(failure),
        name = signals.next() => tracing::info!("{name}: finishing what is in flight"),
    }
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
        match &self.rdma {
            Some(rdma) => write!(f, " rdma={rdma}"),
            None => Ok(()),
        }
    }
}
