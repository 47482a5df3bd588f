//! Tags of content, and requests that depend on them.

use http::HeaderMap;
use http::header::IF_NONE_MATCH;

/// Behind the hash in the tag of content that is compressed: it has other bytes.
const COMPRESSED: &str = "-zstd";

/// The tag of content with this hash.
pub(super) fn etag(hash: &str) -> String {
    format!("\"{hash}\"")
}

/// The tag of the same content compressed.
pub(super) fn compressed_etag(hash: &str) -> String {
    format!("\"{hash}{COMPRESSED}\"")
}

/// Whether the client has this content, compressed or not, by what it says.
pub(super) fn is_known(headers: &HeaderMap, hash: &str) -> bool {
    named(headers).any(|tag| tag == "*" || tag_hash(tag) == Some(hash))
}

/// Whether something is to be stored only where there is nothing.
pub(super) fn only_if_absent(headers: &HeaderMap) -> bool {
    named(headers).any(|tag| tag == "*")
}

fn named(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(IF_NONE_MATCH).iter();
    let values = values.filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',').map(str::trim))
}

fn tag_hash(tag: &str) -> Option<&str> {
    let tag = tag.strip_prefix("W/").unwrap_or(tag);
    let hash = tag.strip_prefix('"')?.strip_suffix('"')?;
    Some(hash.strip_suffix(COMPRESSED).unwrap_or(hash))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_a_client_has_is_found_in_its_lists() {
        let known = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.append(IF_NONE_MATCH, HeaderValue::from_static("\"other\""));
            headers.append(IF_NONE_MATCH, HeaderValue::from_str(text).unwrap());
            is_known(&headers, "abc")
        };
        assert!(known("\"abc\"") && known("W/\"abc\"") && known("*"));
        assert!(known("\"x\", \"abc-zstd\""));
        assert!(!known("abc") && !known("\"abcd\"") && !known(""));
        assert_eq!(compressed_etag("abc"), "\"abc-zstd\"");
    }
}
