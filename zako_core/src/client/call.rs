//! Calls made by hand, for bodies that generated code would copy.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::BodyExt;
use prost::Message;
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use super::answer::Answer;
use super::dial::Http2;
use super::outgoing::Outgoing;
use super::status;
use crate::cas::{CasError, ErrorKind, Result};
use crate::transport::grpc::{Pieces, frame};

pub(super) const DOWNLOAD: &str = "/zako.v1.transport.Transport/Download";
pub(super) const BATCH_DOWNLOAD: &str = "/zako.v1.batch.Batch/BatchDownload";
pub(super) const BATCH_UPLOAD: &str = "/zako.v1.batch.Batch/BatchUpload";
pub(super) const UPLOAD: &str = "/zako.v1.transport.Transport/Upload";

/// The name of the metadata that carries a token.
pub(super) const TOKEN: &str = "zako-token";

/// The longest answer with one message and no bulk, in bytes.
const MAX_UNARY: usize = 64 * 1024;

/// The messages of a server's answer, as bytes.
#[derive(Debug)]
pub(super) struct Reply {
    body: Answer,
    /// The headers told success already, and nothing follows.
    over: bool,
}

/// Makes a call and reads the head of its answer.
///
/// # Errors
/// What the server answered instead of messages; [`ErrorKind::Unavailable`] if
/// the connection broke.
pub(super) async fn open(
    mut http2: Http2,
    path: &'static str,
    token: Option<HeaderValue>,
    body: impl Into<Outgoing>,
) -> Result<Reply> {
    let mut request = Request::new(body.into());
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = http::Uri::from_static(path);
    let headers = request.headers_mut();
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    if let Some(token) = token {
        headers.insert(TOKEN, token);
    }
    let ready = std::future::poll_fn(|cx| http2.poll_ready(cx));
    ready.await.map_err(|error| status::broken(&*error))?;
    let answer = http2.send(request).await;
    let answer = answer.map_err(|error| status::broken(&*error))?;
    let over = check_head(&answer)?;
    Ok(Reply {
        body: answer.into_body(),
        over,
    })
}

/// Whether the answer is a success that ends with its head.
fn check_head(answer: &Response<Answer>) -> Result<bool> {
    if let Some(status) = Status::from_header_map(answer.headers()) {
        return match status.code() {
            tonic::Code::Ok => Ok(true),
            _ => Err(status::from_status(&status)),
        };
    }
    let code = answer.status();
    let is_grpc = answer
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if code == StatusCode::OK && is_grpc {
        return Ok(false);
    }
    let kind = match code {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => ErrorKind::Unavailable,
        _ => ErrorKind::Unsupported,
    };
    Err(CasError::new(
        kind,
        format!("no gRPC server is there: it answers HTTP {code}"),
    ))
}

impl Reply {
    /// The next bytes, `None` after the end that the server declared a success.
    /// Waits for them `idle` at most.
    ///
    /// # Errors
    /// What the server told in the end; [`ErrorKind::Unavailable`] if there was no
    /// proper end; [`ErrorKind::Timeout`].
    pub(super) async fn next(&mut self, idle: Duration) -> Result<Option<Bytes>> {
        if self.over {
            return Ok(None);
        }
        loop {
            let Ok(frame) = timeout(idle, self.body.frame()).await else {
                return Err(CasError::new(
                    ErrorKind::Timeout,
                    format!("the server sent nothing for {idle:?}"),
                ));
            };
            match frame {
                // A stream that is reset without an error ends like this.
                None => {
                    return Err(CasError::new(
                        ErrorKind::Unavailable,
                        "the server's answer ended without a status",
                    ));
                }
                Some(Err(error)) => return Err(status::broken(&error)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => return Ok(Some(data)),
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            let Some(status) = Status::from_header_map(&trailers) else {
                                continue;
                            };
                            if status.code() != tonic::Code::Ok {
                                return Err(status::from_status(&status));
                            }
                            self.over = true;
                            return Ok(None);
                        }
                    }
                },
            }
        }
    }

    /// The one message of an answer without bulk.
    ///
    /// # Errors
    /// As for [`message_of`](Self::message_of).
    pub(super) async fn message<M: Message + Default>(self, idle: Duration) -> Result<M> {
        self.message_of(idle, MAX_UNARY).await
    }

    /// The one message of an answer, of at most `longest` bytes.
    ///
    /// # Errors
    /// As for [`next`](Self::next); [`ErrorKind::Internal`] if it is no such message.
    pub(super) async fn message_of<M: Message + Default>(
        mut self,
        idle: Duration,
        longest: usize,
    ) -> Result<M> {
        let mut body = Pieces::new();
        while let Some(data) = self.next(idle).await? {
            if body.len() + data.len() > longest {
                return Err(CasError::new(
                    ErrorKind::Internal,
                    format!("the server answered with more than {longest} bytes"),
                ));
            }
            body.push(data);
        }
        Ok(body.unary()?)
    }
}

/// A body of one message.
pub(super) fn one_message(message: &impl Message) -> Result<Body> {
    let message = frame::message(message)?;
    Ok(Body::new(
        http_body_util::Full::new(message).map_err(|never| match never {}),
    ))
}
