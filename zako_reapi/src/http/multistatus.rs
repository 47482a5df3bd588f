//! What WebDAV's PROPFIND is answered with.

use http::StatusCode;

use super::answer::{self, Answer};

/// Nobody keeps when a value was stored, and clients fail without a time.
const UNKNOWN_TIME: &str = "Thu, 01 Jan 1970 00:00:00 GMT";

/// The properties of a folder.
pub(super) fn folder(path: &str) -> Answer {
    answer(path, "<D:resourcetype><D:collection/></D:resourcetype>")
}

/// The properties of a value of this size.
pub(super) fn value(path: &str, size: u64) -> Answer {
    let properties = format!("<D:resourcetype/><D:getcontentlength>{size}</D:getcontentlength>");
    answer(path, &properties)
}

fn answer(path: &str, properties: &str) -> Answer {
    let path = escaped(path);
    let xml = format!(
        r#"<?xml version="1.0" encoding="utf-8"?><D:multistatus xmlns:D="DAV:"><D:response><D:href>{path}</D:href><D:propstat><D:prop><D:getlastmodified>{UNKNOWN_TIME}</D:getlastmodified>{properties}</D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response></D:multistatus>"#
    );
    let kind = "application/xml; charset=utf-8";
    answer::bytes(StatusCode::MULTI_STATUS, Some(kind), xml.into())
}

/// A path as it came is in ASCII; most of what means something in XML is escaped in it.
fn escaped(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for character in path.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            character => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped() {
        assert_eq!(escaped("/a&b<c>'d\""), "/a&amp;b&lt;c&gt;&apos;d&quot;");
    }
}
