//! The first line: where a server can be reached.

use std::fmt;

use serde::Serialize;
use zako_core::server::BoundServer;
use zako_reapi::http::HttpServer;

use super::admin::Admin;
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// Where a server can be reached.
#[derive(Serialize)]
pub(super) struct Ready {
    event: &'static str,
    pub(super) grpc: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) http: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    admin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rdma: Option<String>,
}

impl Ready {
    pub(super) fn of(
        server: &BoundServer,
        http: Option<&HttpServer>,
        admin: &Admin,
        rdma: Option<String>,
    ) -> Self {
        Self {
            event: "ready",
            grpc: server.local_addr().to_string(),
            http: http.map(|http| http.local_addr().to_string()),
            admin: admin.addr().map(ToString::to_string),
            rdma,
        }
    }

    /// Tells it who started the server.
    ///
    /// # Errors
    /// It can't be written.
    pub(super) fn tell(&self, output: &mut Output) -> Result<(), Failure> {
        match output.record(self).and_then(|()| output.flush()) {
            // A server needs nobody who reads its output.
            Err(failure) if failure.exit() == Exit::ClosedOutput => Ok(()),
            outcome => outcome,
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
