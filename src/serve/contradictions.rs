//! What a configuration asks for that can't be had together, or can't be read.

use super::{access, build_tools, rdma, tls};
use crate::config::{
    AccessConfig, AccessKeys, AdminConfig, AdminKeys, Layers, ServerConfig, ServerKeys, TlsConfig,
    TlsKeys,
};
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
            tell("tls-cert", certificates(&config, layers));
        }
        Err(failure) => tell("data", Err(failure)),
    }
    let access = AccessConfig::resolve(AccessKeys::default(), layers);
    tell(
        "anonymous",
        access.and_then(|config| access::allowed(&config)),
    );
    wrong
}

/// They need to be there, to be good, and to be where other machines reach the server.
fn certificates(server: &ServerConfig, layers: &Layers<'_>) -> Result<(), Failure> {
    let admin = AdminConfig::resolve(AdminKeys::default(), layers)?;
    let tls = TlsConfig::resolve(TlsKeys::default(), layers)?;
    tls::certificate(&tls, server, &admin).map(drop)
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
