//! The certificates of a server: read at its start, on request, and when their files
//! change.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use zako_core::server::ListenAddr;
use zako_core::tls::{ClientAuth, TlsAcceptor, TlsPrepared, TlsServerOptions, Validity};

use super::abort_on_drop::AbortOnDrop;
use super::file_mark::FileMark;
use crate::config::{AdminConfig, ClientAuthChoice, ServerConfig, TlsConfig};
use crate::failure::Failure;

/// How often the files are looked at.
const PERIOD: Duration = Duration::from_secs(2);

/// Certificates that end sooner are warned of.
pub(crate) const CERTIFICATE_ENDS_SOON: Duration = Duration::from_secs(14 * 86_400);

/// TLS as configured. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    acceptor: TlsAcceptor,
    files: Arc<Mutex<Files>>,
}

/// The configured files.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    client_auth: ClientAuth,
}

/// Files and what they have, which can be used.
#[derive(Debug)]
pub(super) struct Next {
    files: Files,
    prepared: TlsPrepared,
}

impl Tls {
    /// What is configured, if TLS is.
    ///
    /// # Errors
    /// The configuration makes no sense, or a file can't be used.
    pub(super) fn open(config: &TlsConfig) -> Result<Option<Self>, Failure> {
        let Some(next) = Self::prepare(config)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            acceptor: TlsAcceptor::of(next.prepared),
            files: Arc::new(Mutex::new(next.files)),
        }))
    }

    /// Reads what is configured, to [`apply`](Self::apply) it; `None` if there is no TLS.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub(super) fn prepare(config: &TlsConfig) -> Result<Option<Next>, Failure> {
        let Some(files) = Files::of(config)? else {
            return Ok(None);
        };
        let prepared = files.read()?;
        Ok(Some(Next { files, prepared }))
    }

    /// Takes further connections by these.
    pub(super) fn apply(&self, next: Next) {
        *self.files.lock() = next.files;
        self.acceptor.apply(next.prepared);
        let until = self.acceptor.validity().until;
        tracing::info!(
            days_left = days_until(until),
            "TLS certificates were read again"
        );
    }

    /// What takes the connections of a port that isn't the server's own: those of this
    /// machine need no TLS.
    pub(super) fn for_operators(&self, addr: &ListenAddr) -> Option<TlsAcceptor> {
        is_exposed(addr).then(|| self.acceptor())
    }

    /// What takes the connections.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }

    /// Reads the files again whenever they change, until what this gives is dropped.
    pub(super) fn watch(&self) -> AbortOnDrop {
        let tls = self.clone();
        AbortOnDrop::spawn(async move {
            let mut known = tls.marks();
            let mut seen = known.clone();
            let mut warned = None;
            loop {
                tokio::time::sleep(PERIOD).await;
                tls.warn_of_end(&mut warned);
                let now = tls.marks();
                // Who replaces two files has a moment between them.
                let settled = now == seen;
                seen = now;
                if settled && seen != known {
                    known = seen.clone();
                    tls.read_again();
                }
            }
        })
    }

    fn read_again(&self) {
        let files = self.files.lock().clone();
        match files.read() {
            Ok(prepared) => self.apply(Next { files, prepared }),
            Err(failure) => tracing::warn!(
                "the new TLS files are NOT USED, the certificate before them stays: {}",
                failure.summary()
            ),
        }
    }

    fn marks(&self) -> Vec<FileMark> {
        let files = self.files.lock();
        let paths = [&files.certificate, &files.key];
        let marks = paths.into_iter().chain(&files.client_ca);
        marks.map(|path| FileMark::of(path)).collect()
    }

    /// Once a day.
    fn warn_of_end(&self, warned: &mut Option<SystemTime>) {
        let (now, until) = (SystemTime::now(), self.acceptor.validity().until);
        let lately = warned.is_some_and(|then| now < then + Duration::from_secs(86_400));
        if !lately && until < now + CERTIFICATE_ENDS_SOON {
            *warned = Some(now);
            tracing::warn!(
                days_left = days_until(until),
                "the TLS certificate ends soon"
            );
        }
    }
}

impl Files {
    fn of(config: &TlsConfig) -> Result<Option<Self>, Failure> {
        let (certificate, key) = match (&config.cert.value, &config.key.value) {
            (Some(certificate), Some(key)) => (certificate.0.clone(), key.0.clone()),
            (None, None) if config.client_ca.value.is_none() => return Ok(None),
            (None, None) => return Err(missing("tls-client-ca", "tls-cert")),
            (Some(_), None) => return Err(missing("tls-cert", "tls-key")),
            (None, Some(_)) => return Err(missing("tls-key", "tls-cert")),
        };
        let client_ca = config.client_ca.value.clone().map(|path| path.0);
        let client_auth = match (&client_ca, config.client_auth.value) {
            (None, _) => ClientAuth::None,
            (_, ClientAuthChoice::Optional) => ClientAuth::Optional,
            (_, ClientAuthChoice::Required) => ClientAuth::Required,
        };
        Ok(Some(Self {
            certificate,
            key,
            client_ca,
            client_auth,
        }))
    }

    fn read(&self) -> Result<TlsPrepared, Failure> {
        let certificate = read("the TLS certificate", &self.certificate)?;
        let key = read("the TLS key", &self.key)?;
        warn_of_readers(&self.key);
        let mut options = TlsServerOptions::new(certificate, key);
        if let Some(path) = &self.client_ca {
            let ca = read("the authorities of clients", path)?;
            options = options.with_clients(ca, self.client_auth);
        }
        TlsPrepared::new(&options).map_err(|error| {
            let names = match &self.client_ca {
                Some(ca) => format!(", {}", ca.display()),
                None => String::new(),
            };
            Failure::usage(format!(
                "TLS with {}, {}{names}: {error}",
                self.certificate.display(),
                self.key.display()
            ))
        })
    }
}

/// Whether these may be listened on: where everyone may see and change what moves, only if
/// that is wished for. And whether the files can be used.
///
/// # Errors
/// They may not, or can't.
pub(super) fn allowed(
    config: &TlsConfig,
    server: &ServerConfig,
    admin: &AdminConfig,
) -> Result<(), Failure> {
    let listen = &server.listen.value;
    if Files::of(config)?.is_some() || config.allow_plaintext.value {
        return Ok(());
    }
    let http = server.http_address(listen);
    let addresses = [
        ("listen", Some(listen.clone())),
        ("http", http.filter(|_| server.build_tools.value)),
        ("admin", admin.address(listen)),
    ];
    for (key, addr) in addresses {
        if let Some(addr) = addr.filter(is_exposed) {
            return Err(exposed(key, &addr));
        }
    }
    Ok(())
}

/// When the configured certificate is good, if there is one.
///
/// # Errors
/// Those of [`allowed`], and of [`Tls::open`].
pub(crate) fn certificate(
    config: &TlsConfig,
    server: &ServerConfig,
    admin: &AdminConfig,
) -> Result<Option<Validity>, Failure> {
    allowed(config, server, admin)?;
    let tls = Tls::open(config)?;
    Ok(tls.map(|tls| tls.acceptor.validity()))
}

/// Whether the sockets that were handed on may be served.
///
/// # Errors
/// Other machines reach one, and there is no TLS.
pub(super) fn allowed_on<'a>(
    config: &TlsConfig,
    mut sockets: impl Iterator<Item = &'a ListenAddr>,
) -> Result<(), Failure> {
    if Files::of(config)?.is_some() || config.allow_plaintext.value {
        return Ok(());
    }
    match sockets.find(|addr| is_exposed(addr)) {
        Some(addr) => Err(exposed("a socket that was handed on", addr)),
        None => Ok(()),
    }
}

fn exposed(what: &str, addr: &ListenAddr) -> Failure {
    Failure::usage(format!(
        "{what} is {addr}, which other machines reach, and there is no TLS"
    ))
    .advise(
        "Give a certificate with --tls-cert FILE --tls-key FILE; or, in a network where \
         everyone may see and change all that moves, allow it with --tls-allow-plaintext \
         ([tls] allow-plaintext = true).",
    )
}

/// Whether more than this machine reaches it.
pub(crate) fn is_exposed(addr: &ListenAddr) -> bool {
    match addr {
        ListenAddr::Tcp(addr) => !addr.ip().to_canonical().is_loopback(),
        ListenAddr::Unix(_) => false,
    }
}

fn read(what: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::io(&format!("reading {what}"), path, &error))
}

fn missing(there: &str, missing: &str) -> Failure {
    Failure::usage(format!("there is a {there} and no {missing}"))
        .advise(format!("Name the {missing} too, with --{missing} FILE."))
}

fn warn_of_readers(key: &Path) {
    let mode = std::fs::metadata(key).map_or(0, |meta| meta.mode());
    if mode & 0o004 != 0 {
        tracing::warn!(
            "everyone on this machine can read the TLS key {}: chmod o-r it",
            key.display()
        );
    }
}

fn days_until(time: SystemTime) -> u64 {
    let left = time.duration_since(SystemTime::now()).unwrap_or_default();
    left.as_secs() / 86_400
}
