//! An issuer of JWTs, and one who pretends to be it.

use std::path::{Path, PathBuf};

use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use rand::RngCore;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384};
use serde_json::{Value, json};

/// Signs with one key.
pub struct Issuer {
    key: EncodingKey,
    algorithm: Algorithm,
    id: &'static str,
}

impl Issuer {
    pub fn new(algorithm: Algorithm, id: &'static str) -> Self {
        let pem = |algorithm| {
            let pair = KeyPair::generate_for(algorithm).unwrap();
            pair.serialize_pem().into_bytes()
        };
        let key = match algorithm {
            Algorithm::ES256 => EncodingKey::from_ec_pem(&pem(&PKCS_ECDSA_P256_SHA256)),
            Algorithm::ES384 => EncodingKey::from_ec_pem(&pem(&PKCS_ECDSA_P384_SHA384)),
            Algorithm::EdDSA => Ok(EncodingKey::from_ed_der(&ed25519())),
            _ => EncodingKey::from_rsa_pem(include_bytes!("../keys/rsa.pem")),
        };
        Self {
            key: key.unwrap(),
            algorithm,
            id,
        }
    }

    /// Its public key.
    pub fn jwk(&self) -> Jwk {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.id.to_owned());
        jwk
    }

    pub fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.id.to_owned());
        self.sign_with(&header, claims)
    }

    pub fn sign_with(&self, header: &Header, claims: &Value) -> String {
        encode(header, claims, &self.key).unwrap()
    }
}

/// A private key in the form of PKCS #8 without the public one.
fn ed25519() -> Vec<u8> {
    let mut der = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
    der.resize(48, 0);
    rand::rng().fill_bytes(&mut der[16..]);
    der
}

/// Writes the public keys of these into a folder; the file.
pub fn jwks(folder: &Path, issuers: &[&Issuer]) -> PathBuf {
    let keys = issuers.iter().map(|issuer| issuer.jwk()).collect();
    let path = folder.join("jwks.json");
    let text = serde_json::to_vec(&JwkSet { keys }).unwrap();
    std::fs::write(&path, text).unwrap();
    path
}

/// Good claims of somebody.
pub fn claims(name: &str) -> Value {
    json!({
        "sub": name,
        "iss": "https://issuer",
        "aud": "zako",
        "exp": get_current_timestamp() + 3600,
    })
}
