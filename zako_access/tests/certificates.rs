//! Whom certificates stand for, once TLS has checked them.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::SystemTime;

use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};
use support::{bearer, identity, rules, token, with_token};
use zako_access::{AccessControl, AccessRules, Roles};
use zako_core::access::{Authorizer, Credentials, Role};
use zako_core::cas::{ErrorKind, Result};

fn certificate(name: &str) -> Vec<u8> {
    let mut params = CertificateParams::new(vec![format!("{name}.build.example")]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_after = date_time_ymd(2900, 1, 1);
    let key = KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().to_vec()
}

fn shown(control: &AccessControl, der: &[u8], authorization: Option<&str>) -> Result<String> {
    let mut credentials = Credentials::default();
    credentials.certificate = Some(der);
    credentials.authorization = authorization.map(str::as_bytes);
    let identity = control.identify(&credentials)?;
    if !identity.is_anonymous() && authorization.is_none() {
        assert!(identity.valid_until().unwrap() > SystemTime::now());
    }
    Ok(identity.name().to_owned())
}

fn both(anonymous: Roles) -> AccessRules {
    let mut rules = rules([
        identity(r#"{"name": "one", "certificate": "cn:one", "roles": "write"}"#),
        identity(
            r#"{"name": "all", "certificate": ["uri:x", "dns:*.build.example"], "roles": "read"}"#,
        ),
        with_token("reader", r#""read""#),
    ]);
    rules.anonymous = anonymous;
    rules
}

#[test]
fn the_first_pattern_that_fits_counts() {
    let control = AccessControl::new(both(Roles::default())).unwrap();
    assert_eq!(shown(&control, &certificate("one"), None).unwrap(), "one");
    assert_eq!(shown(&control, &certificate("two"), None).unwrap(), "all");
}

#[test]
fn who_is_unknown_is_nobody_or_anonymous() {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["x.example".to_owned()]).unwrap();
    let unknown = params.self_signed(&key).unwrap().der().to_vec();
    let control = AccessControl::new(both(Roles::default())).unwrap();
    let error = shown(&control, &unknown, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    assert!(error.message().contains("no identity"), "{error}");
    assert!(shown(&control, b"no certificate", None).is_err());
    let control = AccessControl::new(both(Roles::everywhere(Role::Read))).unwrap();
    assert_eq!(shown(&control, &unknown, None).unwrap(), "anonymous");
}

#[test]
fn a_token_goes_before_and_a_wrong_one_is_not_made_good() {
    let control = AccessControl::new(both(Roles::everywhere(Role::Read))).unwrap();
    let one = certificate("one");
    let reader = bearer(&token("reader"));
    assert_eq!(shown(&control, &one, Some(&reader)).unwrap(), "reader");
    assert!(shown(&control, &one, Some("Bearer wrong")).is_err());
}
