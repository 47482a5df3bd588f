//! Who looks after a store: the server that has it, or this process when no
//! server runs.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use zako_core::cas::Maintain;
use zako_core::store::{Formats, LocalStore};

use crate::config::{ClientKeys, Layers, ServerConfig, ServerKeys};
use crate::connect::connect;
use crate::failure::{Failure, Failures};
use crate::local_store::open_store;
use crate::output::Output;

/// Where the store is.
#[derive(Args, Debug)]
pub(crate) struct KeeperArgs {
    /// Open the store in this folder instead of asking a server; no server may
    /// have it open
    #[arg(long, value_name = "DIR", conflicts_with = "server")]
    data: Option<PathBuf>,

    #[command(flatten)]
    client: ClientKeys,
}

/// A way to look after a store.
pub(crate) struct Keeper {
    maintain: Arc<dyn Maintain>,
    opened: Option<LocalStore>,
    formats: Option<Formats>,
}

impl Keeper {
    /// # Errors
    /// The server can't be reached, or the folder is no store, or is in use.
    pub(crate) async fn reach(args: KeeperArgs, layers: &Layers<'_>) -> Result<Self, Failure> {
        let Some(data) = args.data else {
            return Ok(Self {
                maintain: Arc::new(connect(args.client, layers).await?),
                opened: None,
                formats: None,
            });
        };
        // Opening a folder would make a store of it, which is not what was asked for.
        if let Err(error) = std::fs::metadata(data.join("zako.store")) {
            return Err(Failure::io("opening the store", &data, &error)
                .advise("Name the folder that `zako serve` had as --data."));
        }
        let formats = Formats::of(&data)
            .map_err(|error| Failure::io("reading the store's format in", &data, &error))?;
        let keys = ServerKeys {
            data: Some(data),
            ..ServerKeys::default()
        };
        let store = open_store(&ServerConfig::resolve(keys, layers)?, None).await?;
        Ok(Self {
            maintain: Arc::new(store.clone()),
            opened: Some(store),
            formats,
        })
    }

    /// The formats of a store that this process has opened.
    pub(crate) fn formats(&self) -> Option<Formats> {
        self.formats
    }

    pub(crate) fn maintain(&self) -> &dyn Maintain {
        &*self.maintain
    }

    /// Ends a verb that came to `outcome`, which closing must not hide.
    ///
    /// # Errors
    /// That of `outcome`; what was still to be written can't be.
    pub(crate) async fn close_after(
        self,
        outcome: Result<(), Failure>,
        output: &Output,
    ) -> Result<(), Failure> {
        let mut failures = Failures::new(output.json());
        if let Err(failure) = outcome {
            failures.add(failure);
        }
        if let Some(store) = self.opened
            && let Err(error) = store.close().await
        {
            failures.add(error.into());
        }
        failures.into_result()
    }
}
