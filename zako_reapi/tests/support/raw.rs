//! Calls whose bytes are as a test wants them.

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::Request;
use tokio::net::TcpStream;
use tonic::Code;

/// A connection without any gRPC of its own.
pub struct Raw(SendRequest<Bytes>);

/// A call that has begun.
pub struct RawCall {
    pub send: SendStream<Bytes>,
    answer: h2::client::ResponseFuture,
}

impl Raw {
    pub async fn connect(addr: &str) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Self(client.ready().await.unwrap())
    }

    pub async fn call(&mut self, path: &str) -> RawCall {
        let request = Request::post(format!("http://server{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let mut ready = self.0.clone().ready().await.unwrap();
        let (answer, send) = ready.send_request(request, false).unwrap();
        RawCall { send, answer }
    }

    /// A call of these bytes; its status.
    pub async fn status(&mut self, path: &str, bytes: Vec<u8>) -> (Code, String) {
        let mut call = self.call(path).await;
        // The answer may come before all is sent.
        let _ = call.send.send_data(bytes.into(), true);
        call.status().await
    }
}

impl RawCall {
    /// Sends these as the windows let them through.
    pub fn send(&mut self, bytes: impl Into<Bytes>) {
        self.send.send_data(bytes.into(), false).unwrap();
    }

    pub async fn status(self) -> (Code, String) {
        let answer = self.answer.await.unwrap();
        let (head, mut body) = answer.into_parts();
        let trailers = match head.headers.contains_key("grpc-status") {
            true => head.headers,
            false => last(&mut body).await,
        };
        let text = |name: &str| {
            let value = trailers.get(name).map(|value| value.to_str().unwrap());
            value.unwrap_or_default().to_owned()
        };
        let code = text("grpc-status").parse::<i32>().unwrap();
        (Code::from(code), text("grpc-message"))
    }
}

async fn last(body: &mut RecvStream) -> http::HeaderMap {
    while let Some(data) = body.data().await {
        let length = data.unwrap().len();
        body.flow_control().release_capacity(length).unwrap();
    }
    body.trailers().await.unwrap().unwrap()
}

/// A message with its head.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u32).to_be_bytes();
    [&[0], &length[..], message].concat()
}
