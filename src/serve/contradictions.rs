//! What a configuration asks for that can't be had together, or can't be read.

use super::{build_tools, rdma};
use crate::config::{Layers, ServerConfig, ServerKeys};
use crate::failure::{Exit, Failure};

/// What is wrong with what is configured for a server, each with the name of the flag whose
/// value it is about. It opens no device, no port and no store.
pub(crate) fn contradictions(layers: &Layers<'_>) -> Vec<(&'static str, Failure)> {
    let mut wrong = Vec::new();
    let mut tell = |flag, outcome: Result<(), Failure>| {
        wrong.extend(outcome.err().map(|failure| (flag, failure)));
    };
    match ServerConfig::resolve(ServerKeys::default(), layers) {
        Ok(config) => {
            tell("data", data(&config));
            tell("http", build_tools::allowed(&config));
            tell("rdma", rdma::allowed(&config));
        }
        Err(failure) => tell("data", Err(failure)),
    }
    wrong
}

/// It need not be there, but if it is, it is a folder.
fn data(config: &ServerConfig) -> Result<(), Failure> {
    let data = &config.data.value.0;
    match std::fs::metadata(data) {
        Ok(found) if !found.is_dir() => Err(Failure::new(
            Exit::Usage,
            format!("{} is no folder", data.display()),
        )),
        _ => Ok(()),
    }
}
