//! Rules in the form in which they are looked up.

use std::collections::HashMap;

use zako_core::access::{Credentials, Identity};
use zako_core::cas::Result;

use crate::authorization::{self, wrong};
use crate::certificate::{CertificatePattern, Holder};
use crate::error::AccessError;
use crate::jwt::Jwts;
use crate::rules::AccessRules;
use crate::token::TokenHash;

/// Everyone who is known, by what shows it.
#[derive(Debug)]
pub(crate) struct Identities {
    /// If those may anything who show nothing.
    anonymous: Option<Identity>,
    /// By the first bytes of the hash.
    tokens: HashMap<u64, (TokenHash, Identity)>,
    /// In order: the first that fits counts.
    certificates: Vec<(CertificatePattern, Identity)>,
    users: HashMap<u32, Identity>,
    jwts: Option<Jwts>,
}

impl Identities {
    /// # Errors
    /// The rules contradict each other, or the keys of JWTs can't be read.
    pub(crate) fn new(rules: &AccessRules) -> std::result::Result<Self, AccessError> {
        let anonymous = &rules.anonymous;
        let anonymous = (!anonymous.is_none()).then(|| Identity::anonymous(anonymous.rights()));
        let mut known = Self {
            anonymous,
            tokens: HashMap::new(),
            certificates: Vec::new(),
            users: HashMap::new(),
            jwts: None,
        };
        let (mut names, mut subjects) = (Vec::new(), Vec::new());
        for rule in &rules.identities {
            let name = rule.name.as_str();
            if names.contains(&name) {
                return Err(AccessError::SameName(name.to_owned()));
            }
            names.push(name);
            let identity = Identity::new(name, rule.roles.rights());
            for token in &rule.token_sha256.0 {
                let entry = (*token, identity.clone());
                if let Some((_, other)) = known.tokens.insert(token.slot(), entry) {
                    let other = other.name().to_owned();
                    return Err(AccessError::SameToken(other, name.to_owned()));
                }
            }
            for user in &rule.user.0 {
                if let Some(other) = known.users.insert(*user, identity.clone()) {
                    let other = other.name().to_owned();
                    return Err(AccessError::SameUser(other, name.to_owned(), *user));
                }
            }
            for pattern in &rule.certificate.0 {
                known.certificates.push((pattern.clone(), identity.clone()));
            }
            for pattern in &rule.subject.0 {
                if rules.jwt.is_none() {
                    return Err(AccessError::NoJwt(name.to_owned()));
                }
                subjects.push((pattern.clone(), rule.roles.rights()));
            }
            if rule.token_sha256.0.is_empty()
                && rule.user.0.is_empty()
                && rule.certificate.0.is_empty()
                && rule.subject.0.is_empty()
            {
                return Err(AccessError::Unknowable(name.to_owned()));
            }
        }
        if let Some(rule) = &rules.jwt {
            known.jwts = Some(Jwts::new(rule.clone(), subjects)?);
        }
        Ok(known)
    }

    /// Who shows this. What is shown and wrong is not made good by anything else.
    ///
    /// # Errors
    /// As for [`Authorizer::identify`](zako_core::access::Authorizer::identify).
    pub(crate) fn identify(&self, credentials: &Credentials<'_>) -> Result<Identity> {
        if let Some(value) = credentials.authorization {
            return self.of_token(&authorization::token(value)?);
        }
        let mut why = "the call has no credentials, and they are needed here".to_owned();
        if let Some(der) = credentials.certificate {
            let holder = Holder::of(der).ok_or_else(|| wrong("the certificate can't be read"))?;
            let mut known = self.certificates.iter();
            if let Some((_, identity)) = known.find(|(pattern, _)| pattern.matches(&holder)) {
                let until = holder
                    .valid_until
                    .map(|until| identity.clone().until(until));
                return Ok(until.unwrap_or_else(|| identity.clone()));
            }
            let name: String = holder.name().chars().take(100).collect();
            why = format!("the certificate of {name:?} is no identity's here");
        }
        if let Some(user) = credentials.user
            && let Some(identity) = self.users.get(&user)
        {
            return Ok(identity.clone());
        }
        self.anonymous.clone().ok_or_else(|| wrong(why))
    }

    fn of_token(&self, token: &[u8]) -> Result<Identity> {
        let hash = TokenHash::of(token);
        if let Some((known, identity)) = self.tokens.get(&hash.slot())
            && known.is(&hash)
        {
            return Ok(identity.clone());
        }
        match &self.jwts {
            Some(jwts) if Jwts::is_like(token) => jwts.identify(token, hash),
            _ => Err(wrong("the token is unknown")),
        }
    }
}
