//! JWTs that are good, and all the ways in which they aren't.
#![allow(clippy::unwrap_used)]

mod support;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use serde_json::{Value, json};
use support::issuer::{Issuer, claims, jwks};
use support::{bearer, jwt, rules};
use zako_access::{AccessControl, AccessError, AccessRules, JwtRule};
use zako_core::access::{Authorizer, Credentials, Identity, Role};
use zako_core::cas::Result;

const ALL: [Algorithm; 4] = [
    Algorithm::RS256,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

fn control(rule: JwtRule) -> AccessControl {
    let mut rules: AccessRules = rules([]);
    rules.jwt = Some(rule);
    AccessControl::new(rules).unwrap()
}

fn rule(issuers: &[&Issuer]) -> (tempfile::TempDir, JwtRule) {
    let dir = tempfile::tempdir().unwrap();
    let keys = jwks(dir.path(), issuers);
    let rule = jwt(&format!(
        r#"{{"jwks": {keys:?}, "issuer": "https://issuer", "audience": "zako", "roles": "read"}}"#
    ));
    (dir, rule)
}

fn identify(control: &AccessControl, token: &str) -> Result<Identity> {
    let value = bearer(token);
    let mut credentials = Credentials::default();
    credentials.authorization = Some(value.as_bytes());
    control.identify(&credentials)
}

fn refusal(control: &AccessControl, token: &str) -> String {
    let error = identify(control, token).unwrap_err();
    assert_eq!(error.kind(), zako_core::cas::ErrorKind::Unauthenticated);
    assert!(!format!("{error:?}").contains(token), "{error:?}");
    error.message().to_owned()
}

fn with(changes: Value) -> Value {
    let mut claims = claims("someone");
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

#[test]
fn each_algorithm_with_a_public_key_is_taken() {
    for algorithm in ALL {
        let issuer = Issuer::new(algorithm, "one");
        let (_dir, rule) = rule(&[&issuer]);
        let control = control(rule);
        let token = issuer.sign(&claims("someone"));
        // Once verified, once remembered.
        for _ in 0..2 {
            let identity = identify(&control, &token).unwrap();
            assert_eq!(identity.name(), "jwt:someone");
            assert_eq!(identity.role("x"), Some(Role::Read));
            assert!(identity.valid_until().unwrap() > std::time::SystemTime::now());
        }
        let mut header = Header::new(algorithm);
        let unnamed = issuer.sign_with(&header, &claims("someone"));
        identify(&control, &unnamed).unwrap();
        header.kid = Some("two".to_owned());
        let other = issuer.sign_with(&header, &claims("someone"));
        assert!(refusal(&control, &other).contains("key is unknown"));
    }
}

#[test]
fn what_is_wrong_with_a_claim_is_told() {
    let issuer = Issuer::new(Algorithm::ES256, "one");
    let (_dir, rule) = rule(&[&issuer]);
    let control = control(rule);
    let now = get_current_timestamp();
    for (changes, text) in [
        (json!({"exp": now - 3600}), "expired"),
        (json!({"exp": null}), "lacks"),
        (json!({"exp": "soon"}), "lacks"),
        (json!({"exp": -1}), "lacks"),
        (json!({"nbf": now + 3600}), "not valid yet"),
        (json!({"nbf": "x"}), "no good"),
        (json!({"iss": "https://other"}), "another issuer"),
        (json!({"iss": null}), "lacks"),
        (json!({"iss": ""}), "another issuer"),
        (json!({"aud": "other"}), "for others"),
        (json!({"aud": ["a", "b"]}), "for others"),
        (json!({"aud": []}), "for others"),
        (json!({"aud": null}), "lacks"),
        (json!({"sub": null}), "nobody"),
        (json!({"sub": 7}), "nobody"),
        (json!({"sub": ""}), "nobody"),
        (json!({"sub": "a\nb"}), "nobody"),
        (json!({"sub": "a".repeat(201)}), "nobody"),
    ] {
        let token = issuer.sign(&with(changes.clone()));
        let refusal = refusal(&control, &token);
        assert!(refusal.contains(text), "{changes}: {refusal}");
    }
    for good in [
        // Clocks differ by less than the leeway.
        json!({"exp": now - 10}),
        json!({"nbf": now + 10}),
        json!({"nbf": now - 10}),
        json!({"aud": ["other", "zako"]}),
        json!({"exp": 1e18}),
    ] {
        identify(&control, &issuer.sign(&with(good.clone()))).unwrap_or_else(|error| {
            panic!("{good}: {error}");
        });
    }
}

#[test]
fn a_signature_is_by_a_key_of_the_issuer_for_what_is_there() {
    for algorithm in ALL {
        let issuer = Issuer::new(algorithm, "one");
        let (_dir, rule) = rule(&[&issuer]);
        let control = control(rule);
        let token = issuer.sign(&claims("someone"));
        let parts: Vec<&str> = token.split('.').collect();
        let [head, body, signature] = parts[..] else {
            panic!("three parts");
        };
        let other = issuer.sign(&claims("other"));
        let others: Vec<&str> = other.split('.').collect();
        for forged in [
            format!("{head}.{}.{signature}", others[1]),
            format!("{head}.{body}."),
            format!("{head}.{body}.AAAA"),
            format!("{head}.{body}"),
            format!("..{signature}"),
            format!("{head}.{body}.{signature}.{signature}"),
        ] {
            assert!(identify(&control, &forged).is_err(), "{forged}");
        }
        if algorithm != Algorithm::RS256 {
            let pretender = Issuer::new(algorithm, "one");
            let forged = pretender.sign(&claims("someone"));
            assert!(refusal(&control, &forged).contains("signature"));
        }
    }
}

/// `none`, what is symmetric by the public key, and one kind of key for another.
#[test]
fn what_a_token_says_of_its_algorithm_makes_no_key_another() {
    let issuers = ALL.map(|algorithm| Issuer::new(algorithm, "one"));
    for issuer in &issuers {
        let (_dir, rule) = rule(&[issuer]);
        let control = control(rule);
        let token = issuer.sign(&claims("someone"));
        let parts: Vec<&str> = token.split('.').collect();
        // {"alg":"none","typ":"JWT"} and {"alg":"None"}
        for head in ["eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0", "eyJhbGciOiJOb25lIn0"] {
            for signature in ["", parts[2]] {
                refusal(&control, &format!("{head}.{}.{signature}", parts[1]));
            }
        }
        // All that might be taken for a secret of the public key.
        let jwk = serde_json::to_value(issuer.jwk()).unwrap();
        let texts = jwk.as_object().unwrap().values().filter_map(Value::as_str);
        let whole = jwk.to_string();
        for secret in texts.chain([&*whole, ""]) {
            for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
                let mut header = Header::new(algorithm);
                header.kid = Some("one".to_owned());
                let keys = [
                    Some(EncodingKey::from_secret(secret.as_bytes())),
                    EncodingKey::from_base64_secret(secret).ok(),
                ];
                for key in keys.into_iter().flatten() {
                    let forged = encode(&header, &claims("someone"), &key).unwrap();
                    assert!(refusal(&control, &forged).contains("algorithm"));
                }
            }
        }
        // A header that brings its own key, as one of another issuer.
        let own = Issuer::new(Algorithm::ES256, "own");
        let mut header = Header::new(Algorithm::ES256);
        header.jwk = Some(own.jwk());
        header.jku = Some("https://own/keys".to_owned());
        refusal(&control, &own.sign_with(&header, &claims("someone")));
        let mut header = Header::new(jsonwebtoken::Algorithm::ES256);
        header.crit = Some(vec!["exp".to_owned()]);
        refusal(&control, &own.sign_with(&header, &claims("someone")));
    }
}

#[test]
fn algorithms_and_keys_can_be_fewer() {
    let (first, second) = (
        Issuer::new(Algorithm::ES256, "one"),
        Issuer::new(Algorithm::EdDSA, "two"),
    );
    let (_dir, mut rule) = rule(&[&first, &second]);
    rule.algorithms = serde_json::from_str(r#""EdDSA""#).unwrap();
    let control = control(rule);
    identify(&control, &second.sign(&claims("x"))).unwrap();
    assert!(refusal(&control, &first.sign(&claims("x"))).contains("algorithm"));
    assert!(serde_json::from_str::<zako_access::Algorithm>(r#""HS256""#).is_err());
    assert!(serde_json::from_str::<zako_access::Algorithm>(r#""none""#).is_err());
}

#[test]
fn keys_that_are_none_are_refused_when_they_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    let with_keys = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let mut rules = rules([]);
        rules.jwt = Some(jwt(&format!(
            r#"{{"jwks": {path:?}, "issuer": "i", "audience": "a"}}"#
        )));
        AccessControl::new(rules).unwrap_err().to_string()
    };
    for (text, part) in [
        ("", "EOF"),
        (r#"{"keys": []}"#, "no key"),
        (
            r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "s"}]}"#,
            "symmetric",
        ),
        (
            r#"{"keys": [{"kty": "RSA", "n": "!", "e": "AQAB"}]}"#,
            "the key",
        ),
        (
            r#"{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "use": "enc"}]}"#,
            "no key",
        ),
        (
            r#"{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": "RSA-OAEP"}]}"#,
            "no key",
        ),
    ] {
        let error = with_keys(text);
        assert!(error.contains(part), "{text}: {error}");
        assert!(!error.contains("c2VjcmV0"), "{error}");
    }
    let issuer = Issuer::new(Algorithm::ES256, "one");
    let (_dir, mut lax) = rule(&[&issuer]);
    lax.audience.0.clear();
    let mut rules = rules([]);
    rules.jwt = Some(lax);
    let error = AccessControl::new(rules).unwrap_err();
    assert!(matches!(error, AccessError::Empty("audience")), "{error}");
}

#[test]
fn other_claims_can_name_and_give_roles() {
    let issuer = Issuer::new(Algorithm::ES256, "one");
    let roles = |claim: &str, changes: Value| {
        let (_dir, mut rule) = rule(&[&issuer]);
        claim.clone_into(&mut rule.roles_claim);
        "email".clone_into(&mut rule.name_claim);
        let identity = identify(&control(rule), &issuer.sign(&with(changes))).unwrap();
        assert_eq!(identity.name(), "jwt:a@b");
        [identity.role("main"), identity.role("x")]
    };
    let (read, write) = (Some(Role::Read), Some(Role::Write));
    for (claim, changes, expected) in [
        ("zako", json!({}), [read, read]),
        ("zako", json!({"zako": "write"}), [write, write]),
        ("zako", json!({"zako": "none write:main"}), [write, None]),
        (
            "zako",
            json!({"zako": ["write:ma*", 7, "boss", "write:a*b"]}),
            [write, read],
        ),
        (
            "zako",
            json!({"zako": {"main": "write", "x": "none", "y": 7}}),
            [write, None],
        ),
        ("zako", json!({"zako": 7}), [read, read]),
        ("/a/b", json!({"a": {"b": ["write"]}}), [write, write]),
        ("/a~1b", json!({"a/b": ["write"]}), [write, write]),
        (
            "https://zako/roles",
            json!({"https://zako/roles": "write"}),
            [write, write],
        ),
    ] {
        let mut changes = changes;
        changes["email"] = "a@b".into();
        assert_eq!(roles(claim, changes.clone()), expected, "{claim} {changes}");
    }
}

#[test]
fn new_keys_are_in_force_when_they_are_read_again() {
    let (old, new) = (
        Issuer::new(Algorithm::ES256, "old"),
        Issuer::new(Algorithm::ES256, "new"),
    );
    let (dir, rule) = rule(&[&old]);
    let control = control(rule);
    let tokens = [old.sign(&claims("x")), new.sign(&claims("x"))];
    identify(&control, &tokens[0]).unwrap();
    let generation = control.generation();
    jwks(dir.path(), &[&new]);
    control.refresh().unwrap();
    assert_ne!(control.generation(), generation);
    // What was remembered of the old keys is forgotten too.
    assert!(identify(&control, &tokens[0]).is_err());
    identify(&control, &tokens[1]).unwrap();
    std::fs::write(dir.path().join("jwks.json"), "{").unwrap();
    control.refresh().unwrap_err();
    identify(&control, &tokens[1]).unwrap();
}
