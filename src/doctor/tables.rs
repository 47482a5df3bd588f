//! Who may do what, how much of it, and who else hears it: `[access]`, `[limits]`, `[tls]`.

use std::time::SystemTime;

use super::Check;
use crate::config::{
    AccessConfig, AdminConfig, ClientAuthChoice, LimitsConfig, ServerConfig, TlsConfig,
};
use crate::failure::Failure;
use crate::quantity::plural;
use crate::serve::{self, CERTIFICATE_ENDS_SOON};

pub(super) fn tls(config: &TlsConfig, server: &ServerConfig, admin: &AdminConfig) -> Check {
    const NAME: &str = "tls";
    match serve::certificate(config, server, admin) {
        Err(failure) => unusable(NAME, &failure),
        Ok(None) if config.allow_plaintext.value => Check::ok(
            NAME,
            "none; other machines may be served without (tls-allow-plaintext)",
        ),
        Ok(None) => Check::ok(NAME, "none; only this machine can be served"),
        Ok(Some(validity)) => {
            let left = validity.until.duration_since(SystemTime::now());
            let left = left.unwrap_or_default();
            let clients = match (&config.client_ca.value, config.client_auth.value) {
                (None, _) => "clients need none",
                (Some(_), ClientAuthChoice::Optional) => "clients may have one",
                (Some(_), ClientAuthChoice::Required) => "clients need one too",
            };
            let days = plural(left.as_secs() / 86_400, "day");
            let found = format!("the certificate is good for {days}; {clients}");
            match left < CERTIFICATE_ENDS_SOON {
                true => Check::warning(NAME, found, "Renew it: it is read again by itself."),
                false => Check::ok(NAME, found),
            }
        }
    }
}

pub(super) fn access(config: &AccessConfig) -> Check {
    const NAME: &str = "access";
    let Some(rules) = config.rules() else {
        return Check::ok(NAME, "nobody is asked: who can connect may do everything");
    };
    if let Err(failure) = serve::access_allowed(config) {
        return unusable(NAME, &failure);
    }
    let jwt = match &rules.jwt {
        Some(jwt) => format!("JWTs of {}", jwt.issuer.0.join(", ")),
        None => "no JWTs".to_owned(),
    };
    let known = match rules.identities.len() {
        1 => "1 identity".to_owned(),
        count => format!("{count} identities"),
    };
    let anonymous = &rules.anonymous;
    Check::ok(
        NAME,
        format!("{known}, {jwt}; who shows nothing: {anonymous}"),
    )
}

pub(super) fn limits(config: &LimitsConfig) -> Check {
    let callers = &config.callers;
    let each = match callers.default.is_none() {
        true => "callers are not limited",
        false => "each caller is limited",
    };
    let own = match callers.identities.len() {
        0 => String::new(),
        count => format!("; {count} have limits of their own"),
    };
    Check::ok(
        "limits",
        format!(
            "{} connections, {} of an address; {each}{own}",
            config.max_connections.value, config.max_connections_per_address.value
        ),
    )
}

fn unusable(name: &'static str, failure: &Failure) -> Check {
    let advice = failure
        .advice()
        .unwrap_or("zako config --check tells where.");
    Check::broken(name, failure.summary(), advice)
}
