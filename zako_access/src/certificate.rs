//! Whom a client's certificate names.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::pattern::{Pattern, from_text};

/// What a certificate must name: `cn:PATTERN` (the subject's common name), `dns:PATTERN` or
/// `uri:PATTERN` (alternative names).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificatePattern {
    field: Field,
    pattern: Pattern,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    CommonName,
    Dns,
    Uri,
}

/// What a certificate says of its holder.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Holder {
    names: Vec<(Field, String)>,
    /// Until when it is good.
    pub(crate) valid_until: Option<SystemTime>,
}

impl Holder {
    /// Reads a certificate in DER; `None` if it is none.
    pub(crate) fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let mut names = Vec::new();
        let mut common = certificate.subject().iter_common_name();
        // Which of two would be meant?
        if let (Some(name), None) = (common.next(), common.next())
            && let Ok(name) = name.as_str()
        {
            names.push((Field::CommonName, name.to_owned()));
        }
        if let Ok(Some(others)) = certificate.subject_alternative_name() {
            for name in &others.value.general_names {
                match name {
                    GeneralName::DNSName(name) => {
                        names.push((Field::Dns, name.to_ascii_lowercase()));
                    }
                    GeneralName::URI(name) => names.push((Field::Uri, (*name).to_owned())),
                    _ => {}
                }
            }
        }
        let ends = u64::try_from(certificate.validity().not_after.timestamp());
        let ends = Duration::from_secs(ends.unwrap_or(0));
        Some(Self {
            names,
            valid_until: SystemTime::UNIX_EPOCH.checked_add(ends),
        })
    }

    /// Some name of it, for a text.
    pub(crate) fn name(&self) -> &str {
        self.names
            .first()
            .map_or("without a name", |(_, name)| name)
    }
}

impl CertificatePattern {
    pub(crate) fn matches(&self, holder: &Holder) -> bool {
        let mut names = holder.names.iter();
        names.any(|(field, name)| *field == self.field && self.pattern.matches(name))
    }
}

impl FromStr for CertificatePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (field, pattern) = match text.split_once(':') {
            Some(("cn", pattern)) => (Field::CommonName, pattern.parse()?),
            Some(("dns", pattern)) => (Field::Dns, pattern.to_ascii_lowercase().parse()?),
            Some(("uri", pattern)) => (Field::Uri, pattern.parse()?),
            _ => {
                return Err(format!(
                    "{text:?} is no pattern of a certificate: write cn:NAME, dns:NAME or uri:NAME"
                ));
            }
        };
        Ok(Self { field, pattern })
    }
}

impl fmt::Display for CertificatePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = match self.field {
            Field::CommonName => "cn",
            Field::Dns => "dns",
            Field::Uri => "uri",
        };
        write!(f, "{field}:{}", self.pattern)
    }
}

impl<'de> Deserialize<'de> for CertificatePattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn holder() -> Holder {
        let mut params = CertificateParams::new(vec!["Build.Example.org".to_owned()]).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, "builder 7");
        let uri = "spiffe://example.org/ci/7".try_into().unwrap();
        params.subject_alt_names.push(SanType::URI(uri));
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Holder::of(certificate.der()).unwrap()
    }

    #[test]
    fn patterns_match_the_field_that_they_name() {
        let holder = holder();
        for (pattern, matches) in [
            ("cn:builder 7", true),
            ("cn:builder *", true),
            ("cn:Build.Example.org", false),
            ("dns:*.EXAMPLE.org", true),
            ("dns:example.org", false),
            ("dns:builder 7", false),
            ("uri:spiffe://example.org/ci/*", true),
            ("uri:spiffe://example.org/cd/*", false),
        ] {
            let parsed: CertificatePattern = pattern.parse().unwrap();
            assert_eq!(parsed.matches(&holder), matches, "{pattern}");
        }
        assert!(holder.valid_until.unwrap() > SystemTime::now());
        assert!("o:x".parse::<CertificatePattern>().is_err());
        assert_eq!(Holder::of(b"no certificate"), None);
    }
}
