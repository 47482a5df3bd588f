//! Certificates and keys out of PEM, and when they are good.

use std::time::{Duration, SystemTime};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::TlsError;

/// From when until when certificates are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Not before.
    pub from: SystemTime,
    /// Not after.
    pub until: SystemTime,
}

impl Validity {
    /// Of one certificate, in DER.
    ///
    /// # Errors
    /// [`TlsError::Certificate`] if it is none.
    pub fn of(certificate: &[u8]) -> Result<Self, TlsError> {
        let (_, certificate) = X509Certificate::from_der(certificate)
            .map_err(|error| TlsError::Certificate(error.to_string()))?;
        let validity = certificate.validity();
        Ok(Self {
            from: time(validity.not_before.timestamp()),
            until: time(validity.not_after.timestamp()),
        })
    }

    /// Of certificates that are only good together.
    fn of_all(certificates: &[CertificateDer<'_>]) -> Result<Self, TlsError> {
        let ever = Self {
            from: SystemTime::UNIX_EPOCH,
            until: time(i64::MAX),
        };
        certificates.iter().try_fold(ever, |all, certificate| {
            let one = Self::of(certificate)?;
            Ok(Self {
                from: all.from.max(one.from),
                until: all.until.min(one.until),
            })
        })
    }

    /// # Errors
    /// [`TlsError::NotYetValid`] or [`TlsError::Expired`] if `now` is not within.
    pub fn check(&self, now: SystemTime) -> Result<(), TlsError> {
        if now < self.from {
            return Err(TlsError::NotYetValid(self.from));
        }
        if now > self.until {
            return Err(TlsError::Expired(self.until));
        }
        Ok(())
    }
}

/// A chain with its key, when it is good.
pub(super) fn certified(
    certificates: &[u8],
    key: &[u8],
) -> Result<(CertifiedKey, Validity), TlsError> {
    let certificates = chain(certificates)?;
    let validity = Validity::of_all(&certificates)?;
    validity.check(SystemTime::now())?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => TlsError::NoKey,
        // Never the error's text: it may show the key's.
        _ => TlsError::Key("its PEM can't be read".to_owned()),
    })?;
    let certified = CertifiedKey::from_der(certificates, key, &super::provider());
    let certified = certified.map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => TlsError::KeyMismatch,
        rustls::Error::InvalidCertificate(_) => TlsError::Certificate(error.to_string()),
        _ => TlsError::Key(error.to_string()),
    })?;
    Ok((certified, validity))
}

/// The authorities of a PEM file.
pub(super) fn authorities(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for authority in chain(pem)? {
        store
            .add(authority)
            .map_err(|error| TlsError::Certificate(error.to_string()))?;
    }
    Ok(store)
}

fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| TlsError::Certificate(error.to_string()))?;
    if all.is_empty() {
        return Err(TlsError::NoCertificate);
    }
    Ok(all)
}

/// The time so many seconds after 1970; the latest or earliest one for those beyond what
/// certificates have.
fn time(seconds: i64) -> SystemTime {
    /// The end of the year 9999, for certificates that never expire.
    const LATEST: i64 = 253_402_300_799;
    let seconds = seconds.clamp(0, LATEST).unsigned_abs();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_key_must_be_the_certificates() {
        let (certificate, key) = named("a");
        let (_, other) = named("b");
        let load = |certificate: &str, key: &str| {
            certified(certificate.as_bytes(), key.as_bytes()).map(|(_, validity)| validity)
        };
        assert!(load(&certificate, &key).is_ok());
        assert!(matches!(
            load(&certificate, &other),
            Err(TlsError::KeyMismatch)
        ));
        assert!(matches!(load(&key, &key), Err(TlsError::NoCertificate)));
        assert!(matches!(
            load(&certificate, &certificate),
            Err(TlsError::NoKey)
        ));
        let broken = key.replace('\n', "");
        assert!(load(&certificate, &broken).is_err());
    }

    #[test]
    fn the_first_of_a_chain_to_expire_counts() {
        let mut chain = Vec::new();
        for (from, until) in [(2001, 2040), (2010, 2060)] {
            let mut params = rcgen::CertificateParams::new(["a".to_owned()]).unwrap();
            params.not_before = rcgen::date_time_ymd(from, 1, 1);
            params.not_after = rcgen::date_time_ymd(until, 1, 1);
            let key = rcgen::KeyPair::generate().unwrap();
            chain.push(params.self_signed(&key).unwrap().der().clone());
        }
        let validity = Validity::of_all(&chain).unwrap();
        let year = Duration::from_secs(31_557_600);
        assert!(validity.from > SystemTime::UNIX_EPOCH + 39 * year);
        assert!(validity.until < SystemTime::UNIX_EPOCH + 71 * year);
        let check = |years| validity.check(SystemTime::UNIX_EPOCH + years * year);
        assert!(matches!(check(35), Err(TlsError::NotYetValid(_))));
        assert!(check(60).is_ok());
        assert!(matches!(check(80), Err(TlsError::Expired(_))));
    }
}
