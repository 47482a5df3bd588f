//! JWTs: signed by an issuer, meant for this server, good for a time.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use jsonwebtoken::errors::ErrorKind as JwtError;
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use zako_core::access::{Identity, Rights};
use zako_core::cas::Result;

use crate::authorization::wrong;
use crate::error::AccessError;
use crate::jwks::Keys;
use crate::pattern::Pattern;
use crate::roles::Roles;
use crate::rules::{ALGORITHMS, JwtRule, Name};
use crate::token::TokenHash;

/// What names of JWTs begin with: no configured identity has such a name.
const PREFIX: &str = "jwt:";

/// The tokens whose signatures are remembered as good.
const REMEMBERED: usize = 4096;

/// The most roles that a token can carry.
const MOST_ROLES: usize = 64;

/// Checks JWTs.
#[derive(Debug)]
pub(crate) struct Jwts {
    rule: JwtRule,
    keys: Keys,
    algorithms: Vec<Algorithm>,
    /// Those whose names say what they may, in order.
    subjects: Vec<(Pattern, Rights)>,
    /// Those that were good, until they expire. Which token it was can't be told from it.
    good: Mutex<HashMap<TokenHash, Identity>>,
}

impl Jwts {
    /// # Errors
    /// The rule is too lax, or its keys can't be had.
    pub(crate) fn new(
        rule: JwtRule,
        subjects: Vec<(Pattern, Rights)>,
    ) -> std::result::Result<Self, AccessError> {
        for (name, list) in [("issuer", &rule.issuer), ("audience", &rule.audience)] {
            if list.0.is_empty() || list.0.iter().any(String::is_empty) {
                return Err(AccessError::Empty(name));
            }
        }
        let algorithms = match &rule.algorithms.0[..] {
            [] => ALGORITHMS.to_vec(),
            some => some.iter().map(|one| one.0).collect(),
        };
        Ok(Self {
            keys: Keys::read(&rule.jwks)?,
            rule,
            algorithms,
            subjects,
            good: Mutex::default(),
        })
    }

    /// Whether a token has the form of one.
    pub(crate) fn is_like(token: &[u8]) -> bool {
        token.iter().filter(|byte| **byte == b'.').count() == 2
    }

    /// The identity that the token is for.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthenticated`](zako_core::cas::ErrorKind::Unauthenticated) says why
    /// it is no good.
    pub(crate) fn identify(&self, token: &[u8], hash: TokenHash) -> Result<Identity> {
        let now = SystemTime::now();
        if let Some(known) = self.good.lock().get(&hash)
            && known.valid_until().is_some_and(|until| now < until)
        {
            return Ok(known.clone());
        }
        let identity = self.verify(token)?;
        let mut good = self.good.lock();
        if good.len() >= REMEMBERED {
            good.retain(|_, known| known.valid_until().is_some_and(|until| now < until));
        }
        if good.len() >= REMEMBERED {
            good.clear();
        }
        good.insert(hash, identity.clone());
        Ok(identity)
    }

    fn verify(&self, token: &[u8]) -> Result<Identity> {
        let header = decode_header(token).map_err(|_| wrong("the token is unknown"))?;
        if header.crit.is_some() {
            return Err(wrong("the token asks for what isn't known here"));
        }
        // `none` and what is symmetric is in neither list.
        if !self.algorithms.contains(&header.alg) {
            return Err(wrong("the token's algorithm is not taken"));
        }
        let mut why = wrong("the token's key is unknown");
        for key in self.keys.fitting(header.kid.as_deref(), header.alg) {
            match decode::<Map<String, Value>>(token, &key.key, &self.validation(header.alg)) {
                Ok(data) => return self.identity(&data.claims),
                Err(error) => why = wrong(reason(error.kind())),
            }
        }
        Err(why)
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = u64::from(self.rule.leeway_seconds);
        validation.validate_nbf = true;
        validation.set_issuer(&self.rule.issuer.0);
        validation.set_audience(&self.rule.audience.0);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation
    }

    fn identity(&self, claims: &Map<String, Value>) -> Result<Identity> {
        let name = claims.get(&self.rule.name_claim).and_then(Value::as_str);
        let name = name.filter(|name| Name::is_good(name));
        let name = name.ok_or_else(|| wrong("the token names nobody"))?;
        let mut subjects = self.subjects.iter();
        let rights = match subjects.find(|(pattern, _)| pattern.matches(name)) {
            Some((_, rights)) => rights.clone(),
            None => self.rule.roles.clone().and(self.roles(claims)).rights(),
        };
        let identity = Identity::new(format!("{PREFIX}{name}"), rights);
        let expires = claims.get("exp").and_then(Value::as_f64).unwrap_or(0.0);
        let expires = Duration::try_from_secs_f64(expires).unwrap_or_default();
        let expires = expires.saturating_add(Duration::from_secs(self.rule.leeway_seconds.into()));
        let until = SystemTime::UNIX_EPOCH.checked_add(expires);
        Ok(identity.until(until.unwrap_or(SystemTime::UNIX_EPOCH)))
    }

    /// What the token itself says that its caller may. What isn't a role is meant for
    /// others.
    fn roles(&self, claims: &Map<String, Value>) -> Roles {
        let claim = &self.rule.roles_claim;
        let value = match claim.strip_prefix('/') {
            None => claims.get(claim),
            Some(rest) => {
                let (first, rest) = match rest.find('/') {
                    Some(at) => rest.split_at(at),
                    None => (rest, ""),
                };
                let first = first.replace("~1", "/").replace("~0", "~");
                claims.get(&first).and_then(|value| value.pointer(rest))
            }
        };
        let mut roles = Roles::default();
        let mut words: Vec<&str> = Vec::new();
        match value {
            Some(Value::String(text)) => words.extend(text.split_whitespace()),
            Some(Value::Array(list)) => words.extend(list.iter().filter_map(Value::as_str)),
            Some(Value::Object(table)) => {
                for (namespaces, role) in table.iter().take(MOST_ROLES) {
                    let _ = roles.add(namespaces, role.as_str().unwrap_or_default());
                }
            }
            _ => {}
        }
        for word in words.into_iter().take(MOST_ROLES) {
            let (role, namespaces) = word.split_once(':').unwrap_or((word, "*"));
            let _ = roles.add(namespaces, role);
        }
        roles
    }
}

fn reason(error: &JwtError) -> &'static str {
    match error {
        JwtError::ExpiredSignature => "the token has expired",
        JwtError::ImmatureSignature => "the token is not valid yet",
        JwtError::InvalidIssuer => "the token is another issuer's",
        JwtError::InvalidAudience => "the token is meant for others",
        JwtError::MissingRequiredClaim(_) => "the token lacks one of exp, iss and aud",
        JwtError::InvalidSignature => "the token's signature is wrong",
        _ => "the token is no good",
    }
}
