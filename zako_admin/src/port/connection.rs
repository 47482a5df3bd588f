//! One connection: one request of HTTP/1, with bounds on all of it.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use zako_core::negotiate::Peer;
use zako_core::server::PortConnection;

use super::{Shared, route};

/// The least that hyper takes for a buffer.
const LEAST_BUFFER: usize = 8 << 10;

/// Serves a connection to its end, or until its time is over.
pub(super) async fn serve(shared: Arc<Shared>, connection: PortConnection) {
    let PortConnection {
        stream,
        peer,
        certificate,
        stop,
        ..
    } = connection;
    let peer = Peer::with_certificate(peer, certificate);
    let options = &shared.options;
    let service = service_fn(|request| {
        let (shared, peer) = (Arc::clone(&shared), Arc::clone(&peer));
        async move {
            let began = Instant::now();
            let answer = route::answer(&shared, &peer, &request).await;
            shared.observe(&peer, &request, &answer, began.elapsed());
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Requests are few, and a rest between two would need a time of its own.
        .keep_alive(false)
        .header_read_timeout(options.header_timeout)
        .max_header_size(options.max_header_bytes)
        .max_buf_size(options.max_header_bytes.max(LEAST_BUFFER))
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(tokio::time::timeout(options.connection_timeout, connection));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        // A request that has begun is answered; the port cuts what takes too long.
        () = stop.cancelled() => connection.await,
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(?peer, %error, "a connection broke"),
        Err(_) => tracing::debug!(?peer, "a connection took too long"),
    }
}
