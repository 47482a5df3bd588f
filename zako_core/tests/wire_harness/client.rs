//! A client that speaks bare HTTP/2, so that it can send anything.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::{HeaderMap, Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::message::{bytes_in, framed, number};
use super::{DETAILS, DOWNLOAD, UPLOAD};

/// One connection.
pub struct Client {
    send: SendRequest<Bytes>,
    connection: tokio::task::JoinHandle<()>,
    /// Sent with every call.
    pub token: Option<String>,
}

/// A call under way.
pub struct Call {
    pub response: ResponseFuture,
    pub send: SendStream<Bytes>,
}

/// All that came back.
#[derive(Debug)]
pub struct Answer {
    pub http: StatusCode,
    pub headers: HeaderMap,
    /// The messages, without their heads.
    pub messages: Vec<Bytes>,
    /// `grpc-status`, from the trailers or from headers without a body; -1 if the
    /// stream was reset before it came.
    pub status: i32,
    pub text: String,
    /// `grpc-status-details-bin`, decoded.
    pub details: Vec<u8>,
}

impl Client {
    pub async fn connect(addr: SocketAddr) -> Self {
        Self::with_windows(addr, 1 << 24, 1 << 26).await
    }

    pub async fn with_windows(addr: SocketAddr, stream: u32, connection: u32) -> Self {
        let tcp = TcpStream::connect(addr).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        Self::over(tcp, stream, connection).await
    }

    pub async fn over<S>(io: S, stream: u32, connection: u32) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(stream)
            .initial_connection_window_size(connection)
            .max_frame_size(1 << 20)
            .handshake(io)
            .await
            .unwrap();
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        Self {
            send,
            connection,
            token: None,
        }
    }

    /// Opens a gRPC call; `headers` come on top of those that every call has.
    pub async fn call(&self, path: &str, headers: &[(&str, &str)]) -> Call {
        let mut all = vec![("content-type", "application/grpc"), ("te", "trailers")];
        if let Some(token) = &self.token {
            all.push(("zako-token", token));
        }
        all.extend(headers);
        self.request("POST", path, &all).await
    }

    /// Opens a call with these headers alone.
    pub async fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Call {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://zako{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut send = self.send.clone().ready().await.unwrap();
        let (response, send) = send.send_request(request.body(()).unwrap(), false).unwrap();
        Call { response, send }
    }

    /// Sends all of `body` and the end of the stream, and takes the answer.
    pub async fn send(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        let mut call = self.call(path, &[]).await;
        call.send(body.into(), true).await;
        call.answer().await
    }

    /// A unary call with one message.
    pub async fn unary(&self, path: &str, message: impl AsRef<[u8]>) -> Answer {
        self.send(path, framed(message)).await
    }

    pub async fn download(&self, message: impl AsRef<[u8]>) -> Answer {
        self.unary(DOWNLOAD, message).await
    }

    /// An upload of these messages, then the end of the stream.
    pub async fn upload(&self, messages: &[Vec<u8>]) -> Answer {
        let body: Vec<u8> = messages.iter().flat_map(framed).collect();
        self.send(UPLOAD, body).await
    }

    /// A fresh token that allows everything.
    pub async fn negotiate(&self) -> String {
        self.negotiate_scope(0).await
    }

    pub async fn negotiate_scope(&self, scope: u64) -> String {
        let request = [number(1, 0), number(2, scope)].concat();
        let answer = self.unary(DETAILS, request).await;
        assert_eq!(answer.status, 0, "{answer:?}");
        String::from_utf8(bytes_in(answer.message(), 2).remove(0)).unwrap()
    }

    /// Cuts the connection.
    pub async fn cut(self) {
        self.connection.abort();
        let _ = self.connection.await;
    }
}

impl Call {
    /// Sends as the peer's windows allow. Stops early if the peer resets.
    pub async fn send(&mut self, mut data: Bytes, end: bool) {
        loop {
            if data.is_empty() {
                if end {
                    let _ = self.send.send_data(Bytes::new(), true);
                }
                return;
            }
            let Some(granted) = self.capacity(data.len()).await else {
                return;
            };
            let piece = data.split_to(granted.min(data.len()));
            let last = end && data.is_empty();
            if self.send.send_data(piece, last).is_err() || last {
                return;
            }
        }
    }

    /// How many of `wanted` bytes the peer's windows take now; waits until that is
    /// not 0; `None` if the peer reset the stream.
    pub async fn capacity(&mut self, wanted: usize) -> Option<usize> {
        self.send.reserve_capacity(wanted);
        loop {
            if self.send.capacity() > 0 {
                return Some(self.send.capacity());
            }
            std::future::poll_fn(|cx| self.send.poll_capacity(cx))
                .await?
                .ok()?;
        }
    }

    pub fn reset(mut self) {
        self.send.send_reset(Reason::CANCEL);
    }

    pub async fn answer(self) -> Answer {
        self.try_answer().await.unwrap()
    }

    /// The answer; an error if the connection or the stream broke before any came.
    pub async fn try_answer(self) -> Result<Answer, h2::Error> {
        let response = self.response.await?;
        let (head, mut body) = response.into_parts();
        let mut data = BytesMut::new();
        let mut trailers = None;
        while let Some(piece) = body.data().await {
            let Ok(piece) = piece else { break };
            data.extend_from_slice(&piece);
            body.flow_control().release_capacity(piece.len())?;
        }
        if let Ok(Some(came)) = body.trailers().await {
            trailers = Some(came);
        }
        let ends = trailers.as_ref().unwrap_or(&head.headers);
        let text = |name: &str| {
            let value = ends.get(name).map(|value| value.to_str().unwrap());
            value.unwrap_or_default().to_owned()
        };
        let mut messages = Vec::new();
        let mut data = data.freeze();
        while data.len() >= 5 {
            assert_eq!(data[0], 0, "compressed");
            let length = u32::from_be_bytes(data[1..5].try_into().unwrap()) as usize;
            if data.len() < 5 + length {
                break;
            }
            let message = data.split_to(5 + length);
            messages.push(message.slice(5..));
        }
        Ok(Answer {
            http: head.status,
            messages,
            status: text("grpc-status").parse().unwrap_or(-1),
            text: text("grpc-message"),
            details: decode_base64(&text("grpc-status-details-bin")),
            headers: head.headers,
        })
    }
}

impl Answer {
    /// The one message of a unary answer.
    pub fn message(&self) -> &[u8] {
        assert_eq!(self.messages.len(), 1, "{self:?}");
        &self.messages[0]
    }

    /// The `data` of all messages of a download.
    pub fn data(&self) -> Vec<u8> {
        let messages = self.messages.iter();
        messages
            .flat_map(|message| bytes_in(message, 1).concat())
            .collect()
    }

    /// Whether the details hold this text, as reasons and metadata stand there.
    pub fn details_have(&self, text: &str) -> bool {
        let details = &self.details;
        details
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    }

    /// Fails unless the call ended with this code.
    #[track_caller]
    pub fn expect(&self, code: i32) -> &Self {
        assert_eq!(self.status, code, "{self:?}");
        self
    }
}

/// Standard base64 with or without padding.
fn decode_base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut bits, mut have) = (0u32, 0);
    for c in text.bytes().filter(|c| *c != b'=') {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => panic!("not base64: {text}"),
        };
        bits = bits << 6 | u32::from(value);
        have += 6;
        if have >= 8 {
            have -= 8;
            bytes.push((bits >> have) as u8);
            bits &= (1 << have) - 1;
        }
    }
    bytes
}
