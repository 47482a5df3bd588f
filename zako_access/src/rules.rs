//! Who is known by what, as an operator writes it.

use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::str::FromStr;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, IntoDeserializer, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use zako_core::access::Identity;

use crate::certificate::CertificatePattern;
use crate::pattern::{Pattern, from_text};
use crate::roles::Roles;
use crate::token::TokenHash;

/// All that is written of who may do what.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessRules {
    /// What those may do who show nothing.
    pub anonymous: Roles,
    /// Who is known.
    pub identities: Vec<IdentityRule>,
    /// The JWTs that are taken.
    pub jwt: Option<JwtRule>,
}

/// Somebody, and by what it is known.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct IdentityRule {
    /// Its name.
    pub name: Name,
    /// The hashes of its tokens: two while one takes the place of the other.
    #[serde(default)]
    pub token_sha256: OneOrMany<TokenHash>,
    /// Certificates that are its.
    #[serde(default)]
    pub certificate: OneOrMany<CertificatePattern>,
    /// Users of this machine, by number, who come over a Unix socket.
    #[serde(default)]
    pub user: OneOrMany<u32>,
    /// Names in JWTs that are its.
    #[serde(default)]
    pub subject: OneOrMany<Pattern>,
    /// What it may.
    pub roles: Roles,
}

/// Which JWTs are taken, and what they say.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct JwtRule {
    /// The file with the keys of their issuer, as a JWKS.
    pub jwks: PathBuf,
    /// Who may have issued them.
    pub issuer: OneOrMany<String>,
    /// Whom they may be meant for.
    pub audience: OneOrMany<String>,
    /// The claim with the caller's name.
    #[serde(default = "sub")]
    pub name_claim: String,
    /// The claim with its roles; a JSON pointer if it begins with a slash.
    #[serde(default = "zako")]
    pub roles_claim: String,
    /// What every caller with a good one may.
    #[serde(default)]
    pub roles: Roles,
    /// By how many seconds clocks may differ.
    #[serde(default = "leeway")]
    pub leeway_seconds: u16,
    /// How they may be signed; empty for all ways with a public key.
    #[serde(default)]
    pub algorithms: OneOrMany<Algorithm>,
}

/// The name of an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

/// One value, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneOrMany<T>(pub Vec<T>);

/// A way to sign with a private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Algorithm(pub(crate) jsonwebtoken::Algorithm);

/// The longest name, in bytes.
const LONGEST: usize = 200;

/// All ways to sign that can be checked with a public key.
pub(crate) const ALGORITHMS: [jsonwebtoken::Algorithm; 9] = {
    use jsonwebtoken::Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    [
        RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA,
    ]
};

impl AccessRules {
    /// Whether nobody wrote anything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Name {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a text can be a name: of bounded length, and nothing that would be another
    /// line of a log.
    pub(crate) fn is_good(text: &str) -> bool {
        !text.is_empty() && text.len() <= LONGEST && !text.chars().any(char::is_control)
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !Self::is_good(text) {
            return Err(format!(
                "a name has 1 to {LONGEST} bytes, and no control characters"
            ));
        }
        if text == Identity::ANONYMOUS || text.contains(':') {
            return Err(format!(
                "{text:?} can't be a name: it has a \":\", or is that of those who show nothing"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for Algorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = text.parse().ok();
        let known = known.filter(|one| ALGORITHMS.contains(one)).map(Self);
        known.ok_or_else(|| {
            let all: Vec<String> = ALGORITHMS.iter().map(|one| format!("{one:?}")).collect();
            format!("{text:?} is none of {}", all.join(", "))
        })
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

impl<'de> Deserialize<'de> for Algorithm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrManyVisitor(PhantomData))
    }
}

struct OneOrManyVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrManyVisitor<T> {
    type Value = OneOrMany<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or a list of them")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        let one = T::deserialize(text.into_deserializer())?;
        Ok(OneOrMany(vec![one]))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
        let one = T::deserialize(number.into_deserializer())?;
        Ok(OneOrMany(vec![one]))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        let one = T::deserialize(number.into_deserializer())?;
        Ok(OneOrMany(vec![one]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(seq)).map(OneOrMany)
    }
}

fn sub() -> String {
    "sub".to_owned()
}

fn zako() -> String {
    "zako".to_owned()
}

const fn leeway() -> u16 {
    60
}
