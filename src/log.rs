//! The log on stderr, and what else sees the program's events and spans.

use tracing::Metadata;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, reload};
use zako_core::observe::trace::TARGETS;
use zako_telemetry::TraceGate;

use crate::args::GlobalArgs;
use crate::failure::Failure;

/// A layer beside that of the log, with its own filter.
pub(crate) type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Changes what is logged.
#[derive(Clone, Debug)]
pub(crate) struct LogFilter {
    handle: reload::Handle<EnvFilter, Registry>,
    /// From a flag or a variable, which go before the file.
    is_fixed: bool,
    default: &'static str,
}

/// What is logged: never the spans of traces, which are exported.
struct Logged(reload::Layer<EnvFilter, Registry>);

/// Starts the log, and `beside` it what else listens, behind the `gate` of traces. `--log` and
/// `ZAKO_LOG` go before the `file`, that before the `default`.
///
/// # Errors
/// What is to be logged can't be read.
pub(crate) fn start(
    global: &GlobalArgs,
    file: Option<&str>,
    default: &'static str,
    beside: Vec<BoxedLayer>,
    gate: Option<TraceGate>,
) -> Result<LogFilter, Failure> {
    let variable = std::env::var("ZAKO_LOG")
        .ok()
        .filter(|text| !text.is_empty());
    let (origin, text, is_fixed) = match (&global.log, &variable, file) {
        (Some(flag), ..) => ("--log", flag.as_str(), true),
        (None, Some(variable), _) => ("the variable ZAKO_LOG", variable.as_str(), true),
        (None, None, Some(file)) => ("log of [telemetry]", file, false),
        (None, None, None) => ("the default", default, false),
    };
    let (filter, handle) = reload::Layer::new(parse(origin, text)?);
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_filter(Logged(filter))
        .boxed();
    let mut layers = vec![log];
    layers.extend(beside);
    let subscriber = tracing_subscriber::registry().with(layers);
    match gate {
        Some(gate) => subscriber.with(gate).init(),
        // Not `None` as a layer: above filters of layers it has every event asked for again.
        None => subscriber.init(),
    }
    Ok(LogFilter {
        handle,
        is_fixed,
        default,
    })
}

fn parse(origin: &str, text: &str) -> Result<EnvFilter, Failure> {
    EnvFilter::builder()
        .parse(text)
        .map_err(|error| Failure::usage(format!("{origin}: {text:?} is no log filter: {error}")))
}

impl LogFilter {
    /// What puts in force what the file says now, or the default if it says nothing;
    /// nothing if a flag or a variable decides.
    ///
    /// # Errors
    /// It can't be read.
    pub(crate) fn prepare(&self, text: Option<&str>) -> Result<Box<dyn FnOnce() + Send>, Failure> {
        if self.is_fixed {
            return Ok(Box::new(|| ()));
        }
        let filter = match text {
            Some(text) => parse("log of [telemetry]", text)?,
            None => parse("the default", self.default)?,
        };
        let handle = self.handle.clone();
        Ok(Box::new(move || {
            // Fails only when the program ends.
            let _ = handle.reload(filter);
        }))
    }
}

fn is_of_trace(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with(TARGETS)
}

impl Filter<Registry> for Logged {
    fn enabled(&self, metadata: &Metadata<'_>, context: &Context<'_, Registry>) -> bool {
        !is_of_trace(metadata) && Filter::enabled(&self.0, metadata, context)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        match is_of_trace(metadata) {
            true => Interest::never(),
            false => Filter::callsite_enabled(&self.0, metadata),
        }
    }

    fn event_enabled(&self, event: &tracing::Event<'_>, context: &Context<'_, Registry>) -> bool {
        Filter::event_enabled(&self.0, event, context)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Filter::max_level_hint(&self.0)
    }

    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        id: &tracing::span::Id,
        context: Context<'_, Registry>,
    ) {
        Filter::on_new_span(&self.0, attributes, id, context);
    }

    fn on_record(
        &self,
        id: &tracing::span::Id,
        values: &tracing::span::Record<'_>,
        context: Context<'_, Registry>,
    ) {
        Filter::on_record(&self.0, id, values, context);
    }

    fn on_enter(&self, id: &tracing::span::Id, context: Context<'_, Registry>) {
        Filter::on_enter(&self.0, id, context);
    }

    fn on_exit(&self, id: &tracing::span::Id, context: Context<'_, Registry>) {
        Filter::on_exit(&self.0, id, context);
    }

    fn on_close(&self, id: tracing::span::Id, context: Context<'_, Registry>) {
        Filter::on_close(&self.0, id, context);
    }
}
