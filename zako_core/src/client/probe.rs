//! Trying out RDMA between this machine and a server.

use std::sync::{Arc, OnceLock};

use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use zako_protobuf::rdma::probe_client::ProbeClient;
use zako_rdma::probe::{self, Measured, ProbeOptions, ProbeReport};
use zako_rdma::session::{Budget, BudgetLimits, Control, SessionError};

use super::session::Load;
use super::{Client, Fabric, status};
use crate::cas::CasError;

/// Messages between a probe and its call.
const QUEUE: usize = 8;

/// Why nothing, or not all, was found out.
#[non_exhaustive]
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProbeError {
    /// The server refuses a probe, or can't be reached.
    #[error(transparent)]
    Refused(#[from] CasError),
    /// RDMA doesn't work, here, there, or in between.
    #[error(transparent)]
    Rdma(SessionError),
}

impl Client {
    /// Tries out whether RDMA works between this port and the server, and how fast, and the
    /// same over gRPC; `each` is told what is measured, one by one. Stores nothing.
    ///
    /// # Errors
    /// [`ProbeError`]; bytes that come wrong are none, but in the report.
    pub async fn probe_rdma(
        &self,
        fabric: Arc<dyn Fabric>,
        options: &ProbeOptions,
        each: impl FnMut(&Measured) + Send,
    ) -> Result<ProbeReport, ProbeError> {
        let lane = self.0.pool.lane(Load::Light).await?;
        let (outgoing, messages) = mpsc::channel(QUEUE);
        let request = lane.request(ReceiverStream::new(messages));
        let mut client = ProbeClient::new(lane.http2());
        // Not waited for: a server may answer only after the offer.
        let call = async move { client.run(request).await.map(|answer| answer.into_inner()) };
        let refusal = Arc::new(OnceLock::new());
        let told = Arc::clone(&refusal);
        let answers = stream::once(call).try_flatten().map(move |answer| {
            answer.map_err(|status| {
                let error = status::from_status(&status);
                told.get_or_init(|| error).clone()
            })
        });
        let control = Control::new(outgoing, answers);
        let budget = Budget::new(BudgetLimits::default());
        let found = probe::run(fabric, control, options, &budget, each).await;
        found.map_err(|error| match (error, refusal.get()) {
            (SessionError::ControlLost(_), Some(refusal)) => refusal.clone().into(),
            (error, _) => ProbeError::Rdma(error),
        })
    }
}
