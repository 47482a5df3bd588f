//! Whether a client takes compressed answers.

use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

/// Whether the client asks for zstd, and not for less than for content as it is. One that
/// takes just anything gets it as it is.
pub(super) fn wants_zstd(headers: &HeaderMap) -> bool {
    let mut zstd = None;
    let mut identity = None;
    for value in headers.get_all(ACCEPT_ENCODING) {
        let Ok(value) = value.to_str() else {
            continue;
        };
        for coding in value.split(',') {
            let mut parts = coding.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let weight = parts.find_map(|part| {
                let (name, weight) = part.split_once('=')?;
                name.trim().eq_ignore_ascii_case("q").then_some(weight)
            });
            let weight = weight.map_or(1.0, |weight| weight.trim().parse().unwrap_or(0.0));
            if name.eq_ignore_ascii_case("zstd") {
                zstd = Some(weight);
            } else if name.eq_ignore_ascii_case("identity") {
                identity = Some(weight);
            }
        }
    }
    let zstd: f32 = zstd.unwrap_or(0.0);
    zstd > 0.0 && zstd >= identity.unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn zstd_is_taken_by_who_asks_for_it() {
        for (text, wants) in [
            ("zstd,gzip", true),
            ("gzip, ZSTD;q=0.1", true),
            ("zstd;level=3;q=1", true),
            ("zstd;q=0.5, identity;q=0.5", true),
            ("zstd;q=0", false),
            ("zstd;q=0.000", false),
            ("zstd;q=nan", false),
            ("zstd;q=", false),
            ("zstd;q=0.5, identity", false),
            ("gzip", false),
            ("*", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(text));
            assert_eq!(wants_zstd(&headers), wants, "{text}");
        }
        assert!(!wants_zstd(&HeaderMap::new()));
    }
}
