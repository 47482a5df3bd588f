//! The keys of an issuer of JWTs.

use std::io::Read;
use std::path::Path;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};

use crate::error::AccessError;

/// The keys of an issuer, each with the algorithms that it is for: what a token says of its
/// algorithm chooses among them, and can't make a key one of another kind.
#[derive(Debug)]
pub(crate) struct Keys(Vec<Key>);

#[derive(Debug)]
pub(crate) struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    pub(crate) key: DecodingKey,
}

/// The longest file, in bytes.
const LONGEST: u64 = 1 << 20;

/// The most keys; a token without the id of one is tried with all that fit.
const MOST: usize = 32;

impl Keys {
    /// Reads them from a file.
    ///
    /// # Errors
    /// It can't be read, is no JWKS, or has a key that has no place in one.
    pub(crate) fn read(path: &Path) -> Result<Self, AccessError> {
        let bad = |why: String| AccessError::BadKeys {
            path: path.to_owned(),
            why,
        };
        let read = std::fs::File::open(path).and_then(|file| {
            let mut text = String::new();
            file.take(LONGEST + 1).read_to_string(&mut text)?;
            Ok(text)
        });
        let text = read.map_err(|error| AccessError::Keys {
            path: path.to_owned(),
            error,
        })?;
        if text.len() as u64 > LONGEST {
            return Err(bad(format!("more than {LONGEST} bytes")));
        }
        Self::parse(&text).map_err(bad)
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let set: JwkSet = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if set.keys.len() > MOST {
            return Err(format!(
                "{} keys, of which {MOST} are taken",
                set.keys.len()
            ));
        }
        let mut keys = Vec::new();
        for jwk in &set.keys {
            keys.extend(key(jwk)?);
        }
        match keys.is_empty() {
            true => Err("there is no key by which a signature could be checked".to_owned()),
            false => Ok(Self(keys)),
        }
    }

    /// Those that a token with this header may be signed with.
    pub(crate) fn fitting<'a>(
        &'a self,
        id: Option<&'a str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a Key> {
        self.0.iter().filter(move |key| {
            let named = id.is_none() || key.id.as_deref() == id;
            named && key.algorithms.contains(&algorithm)
        })
    }
}

/// `None` for a key that isn't for signatures.
fn key(jwk: &Jwk) -> Result<Option<Key>, String> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};

    let common = &jwk.common;
    let id = common.key_id.clone();
    let named = || id.as_deref().unwrap_or("without a kid").to_owned();
    if matches!(&common.public_key_use, Some(other) if *other != PublicKeyUse::Signature) {
        return Ok(None);
    }
    let mut algorithms = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => vec![RS256, RS384, RS512, PS256, PS384, PS512],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => vec![ES256],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => vec![ES384],
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            vec![EdDSA]
        }
        AlgorithmParameters::OctetKey(_) => {
            return Err(format!(
                "the key {} is symmetric: who can check its signatures can make them",
                named()
            ));
        }
        // An issuer may have others beside, for other readers.
        _ => return Ok(None),
    };
    if let Some(only) = common.key_algorithm {
        let only: Option<Algorithm> = only.to_string().parse().ok();
        algorithms.retain(|one| Some(*one) == only);
    }
    if algorithms.is_empty() {
        return Ok(None);
    }
    let key =
        DecodingKey::from_jwk(jwk).map_err(|error| format!("the key {}: {error}", named()))?;
    Ok(Some(Key {
        id,
        algorithms,
        key,
    }))
}
