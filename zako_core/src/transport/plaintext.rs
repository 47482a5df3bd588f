//! What a port that speaks TLS tells those who don't, and what they see of others.

/// For HTTP/2: an empty SETTINGS, and a GOAWAY with INADEQUATE_SECURITY.
pub(crate) const REFUSAL_HTTP2: &[u8] = b"\0\0\0\x04\0\0\0\0\0\
    \0\0\x2a\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0cthis port speaks TLS: use https://";

/// For HTTP/1.
#[cfg(feature = "tls")]
pub(crate) const REFUSAL_HTTP1: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\n\
    content-length: 34\r\n\r\nThis port speaks TLS: use https://";

/// Whether these first bytes of a server are from one that speaks TLS: such a refusal, or
/// an alert.
pub(crate) fn is_refused(first: &[u8]) -> bool {
    first.starts_with(&[21, 3]) || first.starts_with(REFUSAL_HTTP2)
}

#[cfg(all(test, feature = "tls"))]
mod tests {
    use super::*;

    #[test]
    fn the_refusals_are_as_long_as_they_say() {
        let goaway = &REFUSAL_HTTP2[9..];
        assert_eq!(goaway.len() - 9, usize::from(goaway[2]));
        let text = std::str::from_utf8(REFUSAL_HTTP1).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("content-length: {}", body.len())));
    }

    #[test]
    fn an_empty_settings_alone_is_no_refusal() {
        assert!(is_refused(REFUSAL_HTTP2) && is_refused(&[21, 3, 3, 0, 2, 2, 10]));
        assert!(!is_refused(&REFUSAL_HTTP2[..9]) && !is_refused(b""));
    }
}
