//! The value of `authorization`.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zako_core::cas::{CasError, ErrorKind, Result};

/// The longest value that is looked at, in bytes: JWTs get long.
const LONGEST: usize = 16 << 10;

/// The token in the value: that of `Bearer`, or the password of `Basic`, for tools that know
/// nothing else. The user's name means nothing.
///
/// # Errors
/// [`ErrorKind::Unauthenticated`] if there is none.
pub(crate) fn token(value: &[u8]) -> Result<Cow<'_, [u8]>> {
    if value.len() > LONGEST {
        return Err(wrong("the authorization is too long"));
    }
    let space = value.iter().position(|byte| *byte == b' ');
    let (scheme, rest) = value.split_at(space.unwrap_or(value.len()));
    let rest = rest.trim_ascii();
    let token = if scheme.eq_ignore_ascii_case(b"bearer") {
        Cow::Borrowed(rest)
    } else if scheme.eq_ignore_ascii_case(b"basic") {
        let decoded = STANDARD.decode(rest);
        let mut decoded = decoded.map_err(|_| wrong("the authorization is not base64"))?;
        let colon = decoded.iter().position(|byte| *byte == b':');
        let colon = colon.ok_or_else(|| wrong("the authorization has no password"))?;
        Cow::Owned(decoded.split_off(colon + 1))
    } else {
        return Err(wrong("the authorization is neither Bearer nor Basic"));
    };
    match token.is_empty() {
        true => Err(wrong("the authorization has no token")),
        false => Ok(token),
    }
}

pub(crate) fn wrong(message: impl Into<String>) -> CasError {
    CasError::new(ErrorKind::Unauthenticated, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_as_bearers_and_as_passwords() {
        let of = |value: &str| token(value.as_bytes()).ok().map(Cow::into_owned);
        for value in [
            "Bearer abc",
            "bearer abc",
            "BEARER   abc ",
            "Basic eDphYmM=",
            "basic OmFiYw==",
        ] {
            assert_eq!(of(value).as_deref(), Some(&b"abc"[..]), "{value}");
        }
        // A password may have colons.
        assert_eq!(of("Basic YTpiOmM=").as_deref(), Some(&b"b:c"[..]));
        for value in [
            "",
            " ",
            "Bearer",
            "Bearer ",
            "Basic",
            "Basic !",
            "Basic YWJj",
            "Basic YTo=",
            "abc",
            "Digest abc",
            "Bearerabc",
        ] {
            assert_eq!(of(value), None, "{value}");
        }
        let long = format!("Bearer {}", "a".repeat(LONGEST));
        assert_eq!(of(&long), None);
        let error = token(b"Digest hunter2").unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
    }
}
