//! What the path of a request names.

use percent_encoding::percent_decode_str;

use super::refusal::Refusal;
use crate::digest::{DigestFunction, RemoteDigest};

/// The longest path that is taken, in bytes, as it is written.
const LONGEST: usize = 8 << 10;

/// The word before values under free names.
const DAV: &str = "dav";

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Resource {
    Hint,
    Status,
    /// The size in the digest means nothing.
    Blob(RemoteDigest),
    Action(ActionName),
    Value(ValuePath),
    /// One in the space of an instance.
    InstanceValue(String, ValuePath),
}

/// An action of an instance.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ActionName {
    pub(super) instance: String,
    /// The size in the digest means nothing.
    pub(super) action: RemoteDigest,
}

/// A path in the space of free names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ValuePath {
    /// With single slashes inside and none at its ends.
    pub(super) path: String,
    /// It was written with a slash at its end, or is the root.
    pub(super) is_folder: bool,
}

/// The instance that `path` names; empty if it names none, or nothing at all.
pub(super) fn instance(path: &str) -> String {
    let Ok(path) = decoded(path) else {
        return String::new();
    };
    let segments: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    instance_of(&segments).join("/")
}

/// What stands before the word for a kind of resource.
fn instance_of<'a, 'b>(segments: &'a [&'b str]) -> &'a [&'b str] {
    if let Some(at) = segments.iter().position(|part| *part == DAV) {
        return &segments[..at];
    }
    match segments {
        [instance @ .., "cas" | "ac", function, _]
            if DigestFunction::of_name(function).is_some() =>
        {
            instance
        }
        [instance @ .., "cas" | "ac", _] => instance,
        _ => &[],
    }
}

/// What `path` names, as it came in a request.
pub(super) fn resource(path: &str) -> Result<Resource, Refusal> {
    if path.len() > LONGEST {
        let text = format!("the path has {} bytes; {LONGEST} are taken", path.len());
        return Err(Refusal::bad(text));
    }
    let path = decoded(path)?;
    let segments: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if segments.iter().any(|part| matches!(*part, "." | "..")) {
        return Err(Refusal::bad("the path has a segment \".\" or \"..\""));
    }
    match &segments[..] {
        [] => Ok(Resource::Hint),
        ["status"] => Ok(Resource::Status),
        // The first one: behind it, all words are names.
        all if all.contains(&DAV) => {
            let instance = instance_of(all);
            let inside = &all[instance.len() + 1..];
            let value = ValuePath {
                path: inside.join("/"),
                is_folder: inside.is_empty() || path.ends_with('/'),
            };
            Ok(match instance {
                [] => Resource::Value(value),
                instance => Resource::InstanceValue(instance.join("/"), value),
            })
        }
        [instance @ .., kind @ ("cas" | "ac"), hash] => named(instance, kind, None, hash),
        [instance @ .., kind @ ("cas" | "ac"), function, hash]
            if DigestFunction::of_name(function).is_some() =>
        {
            let function = DigestFunction::of_name(function);
            named(instance, kind, function, hash)
        }
        _ => Err(Refusal::not_found(
            "nothing is here: paths are /[instance/]cas/<hash>, /[instance/]ac/<hash>, \
             /[instance/]dav/<path> and /status",
        )),
    }
}

fn named(
    instance: &[&str],
    kind: &str,
    function: Option<DigestFunction>,
    hash: &str,
) -> Result<Resource, Refusal> {
    let digest = RemoteDigest::parse(function, hash, 0)?;
    Ok(match kind {
        "cas" => Resource::Blob(digest),
        _ => Resource::Action(ActionName {
            instance: instance.join("/"),
            action: digest,
        }),
    })
}

fn decoded(path: &str) -> Result<String, Refusal> {
    let mut escapes = path.split('%').skip(1).map(str::as_bytes);
    let whole = |escape: &[u8]| {
        let digits = escape.get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !escapes.all(whole) {
        return Err(Refusal::bad(
            "the path has a \"%\" without two hex digits behind it",
        ));
    }
    let path = percent_decode_str(path).decode_utf8();
    let path = path.map_err(|_| Refusal::bad("the path is not UTF-8"))?;
    if path.contains('\0') {
        return Err(Refusal::bad("the path has a NUL"));
    }
    Ok(path.into_owned())
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use proptest::prelude::*;

    use super::*;

    const SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn action(instance: &str, function: DigestFunction) -> Resource {
        Resource::Action(ActionName {
            instance: instance.to_owned(),
            action: RemoteDigest::parse(Some(function), SHA256, 0).unwrap(),
        })
    }

    fn value(path: &str, is_folder: bool) -> Resource {
        let path = path.to_owned();
        Resource::Value(ValuePath { path, is_folder })
    }

    #[test]
    fn paths_name_what_they_say() {
        let of = |path: &str| resource(path).unwrap();
        let blob = |function| {
            let digest = RemoteDigest::parse(Some(function), SHA256, 0).unwrap();
            Resource::Blob(digest)
        };
        assert_eq!(of("/"), Resource::Hint);
        assert_eq!(of("/status"), Resource::Status);
        let (sha256, blake3) = (DigestFunction::Sha256, DigestFunction::Blake3);
        assert_eq!(of(&format!("/cas/{SHA256}")), blob(sha256));
        assert_eq!(of(&format!("//a/b/cas/{SHA256}")), blob(sha256));
        assert_eq!(of(&format!("/a%2Fb/cas/BLAKE3/{SHA256}")), blob(blake3));
        assert_eq!(of(&format!("/ac/{SHA256}")), action("", sha256));
        assert_eq!(of(&format!("/a/b/ac/{SHA256}")), action("a/b", sha256));
        assert_eq!(of(&format!("/cas/ac/{SHA256}")), action("cas", sha256));
        assert_eq!(of(&format!("/ac/blake3/{SHA256}")), action("", blake3));
        assert_eq!(of("/dav"), value("", true));
        assert_eq!(of("/dav/"), value("", true));
        assert_eq!(of("/dav/a//b%20c/"), value("a/b c", true));
        assert_eq!(
            of(&format!("/dav/cas/{SHA256}")),
            value(&format!("cas/{SHA256}"), false)
        );
    }

    #[test]
    fn instances_have_values_of_their_own() {
        let of = |path: &str| resource(path).unwrap();
        let Resource::Value(inside) = value("x/dav/y", false) else {
            unreachable!("it is one")
        };
        let named = Resource::InstanceValue("a/b".to_owned(), inside);
        assert_eq!(of("/a//b/dav/x/dav/y"), named);
        for (path, expected) in [
            ("/dav/x", ""),
            ("/a/b/dav/x", "a/b"),
            ("/a%2Fb/dav/x", "a/b"),
            ("/status", ""),
            ("/nowhere", ""),
            ("/%zz/dav/x", ""),
            (&format!("/a/b/ac/{SHA256}"), "a/b"),
            (&format!("/a/cas/blake3/{SHA256}"), "a"),
            (&format!("/cas/ac/{SHA256}"), "cas"),
            (&format!("/cas/{SHA256}"), ""),
        ] {
            assert_eq!(instance(path), expected, "{path}");
        }
    }

    #[test]
    fn bad_paths_are_told() {
        let long = format!("/dav/{}", "x".repeat(LONGEST));
        for (path, status, text) in [
            ("/cas/abc", 400, "3"),
            (&format!("/cas/{}g", &SHA256[1..]), 400, "hex digit"),
            (&format!("/cas/sha1/{SHA256}"), 400, "sha1"),
            ("/dav/../x", 400, ".."),
            ("/dav/%2e%2E/x", 400, ".."),
            ("/dav/x%00", 400, "NUL"),
            ("/dav/x%0", 400, "%"),
            ("/dav/x%zz", 400, "%"),
            ("/dav/%ff", 400, "UTF-8"),
            (&long, 400, "bytes"),
            ("/nowhere", 404, "/status"),
            ("/cas", 404, "/status"),
            ("*", 404, "/status"),
        ] {
            let refusal = resource(path).unwrap_err();
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(refusal.status(), status, "{path:.100}");
            assert!(refusal.text().contains(text), "{path:.100}: {refusal:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_names_something_tidy_or_nothing(
            path in "(/|//|dav|cas|ac|status|[.]{1,2}|%2[eEfF]|%00|%c3%a9|[0-9a-f]{64}|.){0,12}"
        ) {
            if let Ok(Resource::Value(value)) = resource(&path) {
                let mut segments = value.path.split('/');
                let is_tidy = |part: &str| !["", ".", ".."].contains(&part) && !part.contains('\0');
                prop_assert!(value.path.is_empty() || segments.all(is_tidy), "{path}");
            }
        }
    }
}
