//! Collectors that are reached by TLS.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use opentelemetry_http::hyper::HyperClient;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use crate::{Target, TelemetryError};

/// Opens connections to collectors.
#[derive(Clone)]
pub(crate) struct SecureConnector(tokio_rustls::TlsConnector);

/// A connection to a collector.
pub(crate) struct SecureStream(TlsStream<TcpStream>);

/// The port of a URL that has none.
const HTTPS_PORT: u16 = 443;

/// What gRPC goes by, if `target` wants TLS; it connects when it is needed.
///
/// # Errors
/// A certificate or a key can't be used.
pub(crate) fn channel(target: &Target) -> Result<Option<Channel>, TelemetryError> {
    let Some(connector) = SecureConnector::new(target, b"h2")? else {
        return Ok(None);
    };
    let endpoint = Endpoint::from_shared(target.endpoint.clone());
    let endpoint = endpoint.map_err(|error| TelemetryError::Exporter(error.to_string()))?;
    let endpoint = endpoint.timeout(target.timeout);
    Ok(Some(endpoint.connect_with_connector_lazy(connector)))
}

/// What HTTP goes by, if `target` wants TLS.
///
/// # Errors
/// A certificate or a key can't be used.
pub(crate) fn http_client(
    target: &Target,
) -> Result<Option<HyperClient<SecureConnector>>, TelemetryError> {
    let connector = SecureConnector::new(target, b"http/1.1")?;
    Ok(connector.map(|connector| HyperClient::new(connector, target.timeout, None)))
}

impl SecureConnector {
    fn new(target: &Target, protocol: &[u8]) -> Result<Option<Self>, TelemetryError> {
        let Some(tls) = &target.tls else {
            return Ok(None);
        };
        let config = tls.rustls_config(&[protocol]);
        let config = config.map_err(|error| TelemetryError::Exporter(error.to_string()))?;
        Ok(Some(Self(Arc::new(config).into())))
    }
}

impl Service<Uri> for SecureConnector {
    type Response = TokioIo<SecureStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.0.clone();
        Box::pin(async move {
            // Addresses of IPv6 have brackets there.
            let host = uri.host().unwrap_or_default();
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            let tcp = TcpStream::connect((host, uri.port_u16().unwrap_or(HTTPS_PORT))).await?;
            let stream = connector.connect(name, tcp).await?;
            Ok(TokioIo::new(SecureStream(stream)))
        })
    }
}

impl Connection for SecureStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for SecureStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for SecureStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl fmt::Debug for SecureConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecureConnector").finish_non_exhaustive()
    }
}
