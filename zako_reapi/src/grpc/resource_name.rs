//! The names that blobs have in ByteStream.
//!
//! `{instance}/blobs/{function/}{hash}/{size}{/anything}` is read, and
//! `{instance}/uploads/{uuid}/blobs/{function/}{hash}/{size}{/anything}` written. With
//! `compressed-blobs/{compressor}` in the place of `blobs` what travels is compressed.
//! The instance may be empty or have slashes.

use zako_core::cas::{CasError, ErrorKind, Result};

use crate::digest::{DigestFunction, RemoteDigest};
use crate::proto::reapi::digest_function::Value;

/// The longest name, in bytes. A stream of writes takes no longer one either.
pub(super) const MAX_NAME: usize = 4096;

/// The words that no segment of an instance may be.
const RESERVED: [&str; 7] = [
    BLOBS,
    COMPRESSED,
    UPLOADS,
    "actions",
    "actionResults",
    "operations",
    "capabilities",
];

const BLOBS: &str = "blobs";
const COMPRESSED: &str = "compressed-blobs";
const UPLOADS: &str = "uploads";

/// What a name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlobName {
    pub(super) digest: RemoteDigest,
    pub(super) encoding: Encoding,
}

/// How the bytes of a blob travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Zstd,
}

/// The segments of a name that are not read yet.
struct Segments<'a> {
    rest: Option<&'a str>,
}

impl BlobName {
    /// What is to be read.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] says what is wrong.
    pub(super) fn to_read(name: &str) -> Result<Self> {
        let mut segments = Segments::new(name)?;
        match segments.behind_instance()? {
            UPLOADS => Err(wrong("what is read is no upload: its name begins at blobs")),
            kind => segments.blob(kind),
        }
    }

    /// What is to be written.
    ///
    /// # Errors
    /// As [`to_read`](Self::to_read).
    pub(super) fn to_write(name: &str) -> Result<Self> {
        let mut segments = Segments::new(name)?;
        if segments.behind_instance()? != UPLOADS {
            return Err(wrong("what is written has uploads/{uuid} before blobs"));
        }
        // Uploads are told apart by their blobs: some tools write many under one UUID.
        segments.next("the upload's UUID")?;
        let kind = segments.next("blobs or compressed-blobs")?;
        segments.blob(kind)
    }
}

/// The instance in a name: what stands before `blobs`, `compressed-blobs` or `uploads`.
pub(super) fn instance(name: &str) -> &str {
    let name = name.strip_prefix('/').unwrap_or(name);
    let mut begin = 0;
    for segment in name.split('/') {
        if matches!(segment, BLOBS | COMPRESSED | UPLOADS) {
            return name[..begin].trim_end_matches('/');
        }
        begin += segment.len() + 1;
    }
    // It names no blob, which is told then.
    ""
}

impl<'a> Segments<'a> {
    fn new(name: &'a str) -> Result<Self> {
        if name.is_empty() {
            return Err(wrong("the resource has no name"));
        }
        if name.len() > MAX_NAME {
            let length = name.len();
            return Err(wrong(&format!(
                "the resource's name has {length} bytes, {MAX_NAME} are allowed"
            )));
        }
        // Some tools write one before the empty instance.
        let rest = Some(name.strip_prefix('/').unwrap_or(name));
        Ok(Self { rest })
    }

    /// The next segment, which is not empty.
    fn next(&mut self, what: &str) -> Result<&'a str> {
        let rest = self.rest.take().unwrap_or_default();
        let segment = match rest.split_once('/') {
            Some((segment, rest)) => {
                self.rest = Some(rest);
                segment
            }
            None => rest,
        };
        if segment.is_empty() {
            return Err(wrong(&format!("the resource's name lacks {what}")));
        }
        Ok(segment)
    }

    /// The segment that ends the instance.
    fn behind_instance(&mut self) -> Result<&'a str> {
        loop {
            let segment = self.next("blobs or compressed-blobs")?;
            match segment {
                BLOBS | COMPRESSED | UPLOADS => return Ok(segment),
                reserved if RESERVED.contains(&reserved) => {
                    return Err(wrong(&format!(
                        "no segment of an instance's name may be {reserved}"
                    )));
                }
                _ => {}
            }
        }
    }

    /// What stands behind `blobs` or `compressed-blobs`.
    fn blob(&mut self, kind: &str) -> Result<BlobName> {
        let encoding = match kind {
            BLOBS => Encoding::Identity,
            COMPRESSED => match self.next("the compressor")? {
                "zstd" => Encoding::Zstd,
                "identity" => Encoding::Identity,
                other => {
                    let other = shortened(other);
                    return Err(wrong(&format!(
                        "the compressor {other} is not offered here"
                    )));
                }
            },
            other => {
                let other = shortened(other);
                return Err(wrong(&format!(
                    "behind the upload's UUID stands {other}, not blobs or compressed-blobs"
                )));
            }
        };
        let mut hash = self.next("the hash")?;
        let function = DigestFunction::of_name(hash);
        if function.is_some() {
            hash = self.next("the hash")?;
        } else if Value::from_str_name(&hash.to_ascii_uppercase()).is_some() {
            return Err(wrong(&format!(
                "the digest function {hash} is not offered here"
            )));
        }
        let size = size(self.next("the blob's size")?)?;
        let digest = RemoteDigest::parse(function, hash, size)?;
        Ok(BlobName { digest, encoding })
    }
}

fn size(digits: &str) -> Result<u64> {
    let size = match digits.bytes().all(|digit| digit.is_ascii_digit()) {
        true => digits.parse::<i64>().ok(),
        false => None,
    };
    let size = size.and_then(|size| u64::try_from(size).ok());
    size.ok_or_else(|| {
        let digits = shortened(digits);
        wrong(&format!("the blob's size {digits} is no number of bytes"))
    })
}

/// The beginning of a segment, for texts.
fn shortened(segment: &str) -> String {
    segment.chars().take(40).collect()
}

fn wrong(what: &str) -> CasError {
    CasError::new(ErrorKind::InvalidArgument, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn instance() -> impl Strategy<Value = String> {
        let segment = "[a-zA-Z0-9_.-]{1,12}"
            .prop_filter("reserved", |segment| !RESERVED.contains(&segment.as_str()));
        proptest::collection::vec(segment, 0..4).prop_map(|segments| segments.join("/"))
    }

    fn joined(instance: &str, rest: &str) -> String {
        match instance {
            "" => rest.to_owned(),
            instance => format!("{instance}/{rest}"),
        }
    }

    #[test]
    fn what_real_clients_send() {
        let hash = DigestFunction::Sha256.digest(b"x").hex();
        let expected = |encoding| BlobName {
            digest: DigestFunction::Sha256.digest(b"x"),
            encoding,
        };
        for name in [
            format!("a/b/uploads/2f5c1c3a-0000/blobs/{hash}/1"),
            format!("/uploads/2f5c1c3a-0000/blobs/{hash}/1"),
            format!("uploads/2f5c1c3a-0000/blobs/sha256/{hash}/1/path/to/file"),
            format!("moon-outputs/uploads/u/compressed-blobs/identity/{hash}/1"),
        ] {
            assert_eq!(
                BlobName::to_write(&name).unwrap(),
                expected(Encoding::Identity)
            );
        }
        for name in [
            format!("a/b/compressed-blobs/zstd/{hash}/1"),
            format!("/compressed-blobs/zstd/SHA256/{hash}/1"),
        ] {
            assert_eq!(BlobName::to_read(&name).unwrap(), expected(Encoding::Zstd));
        }
        let own = DigestFunction::Blake3.digest(b"x");
        let name = format!("blobs/blake3/{}/1", own.hex());
        assert_eq!(BlobName::to_read(&name).unwrap().digest, own);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let hash = DigestFunction::Sha256.digest(b"x").hex();
        for (name, text) in [
            (String::new(), "no name"),
            ("a".repeat(5000), "5000 bytes"),
            ("a/b/c".to_owned(), "lacks blobs"),
            (format!("a//blobs/{hash}/1"), "lacks blobs"),
            (format!("actions/blobs/{hash}/1"), "may be actions"),
            (format!("uploads/u/blobs/{hash}/1"), "no upload"),
            ("blobs".to_owned(), "lacks the hash"),
            (format!("blobs/{hash}"), "lacks the blob's size"),
            (format!("blobs/{hash}/"), "lacks the blob's size"),
            (format!("blobs/{hash}/-1"), "size -1 is no"),
            (format!("blobs/{hash}/+1"), "size +1 is no"),
            (format!("blobs/{hash}/9223372036854775808"), "is no number"),
            (format!("blobs/{}/1", &hash[1..]), "hex digits, not 63"),
            (format!("blobs/md5/{hash}/1"), "md5 is not offered"),
            (format!("blobs/sha1/{hash}/1"), "sha1 has 40"),
            (format!("compressed-blobs/brotli/{hash}/1"), "brotli is not"),
            ("compressed-blobs".to_owned(), "lacks the compressor"),
        ] {
            let error = BlobName::to_read(&name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(text), "{name}: {error}");
        }
        for (name, text) in [
            (format!("blobs/{hash}/1"), "uploads/{uuid}"),
            ("uploads".to_owned(), "lacks the upload's UUID"),
            (format!("uploads/u/{hash}/1"), "not blobs"),
            (
                format!("uploads//blobs/{hash}/1"),
                "lacks the upload's UUID",
            ),
        ] {
            let error = BlobName::to_write(&name).unwrap_err();
            assert!(error.to_string().contains(text), "{name}: {error}");
        }
    }

    #[test]
    fn the_instance_is_what_stands_before() {
        for (name, expected) in [
            ("blobs/x/1", ""),
            ("/uploads/u/blobs/x/1", ""),
            ("main/blobs/x/1", "main"),
            ("/a/b/uploads/u/blobs/x/1", "a/b"),
            ("a/compressed-blobs/zstd/x/1/blobs", "a"),
            ("blobs", ""),
            ("nothing", ""),
        ] {
            assert_eq!(super::instance(name), expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn names_are_read_as_they_are_written(
            instance in instance(), slash: bool, uuid in "[0-9a-f-]{1,36}",
            function in 0..DigestFunction::ALL.len(), named: bool, zstd: bool,
            data: Vec<u8>, size in 0u64..=i64::MAX as u64, behind in "(/[a-z]{1,5}){0,3}/?",
        ) {
            let function = DigestFunction::ALL[function];
            let hex = function.digest(&data).hex();
            let digest = RemoteDigest::parse(Some(function), &hex, size).unwrap();
            let named = named || function == DigestFunction::Blake3;
            let function = if named { format!("{}/", function.name()) } else { String::new() };
            let kind = if zstd { "compressed-blobs/zstd" } else { "blobs" };
            let blob = format!("{kind}/{function}{hex}/{size}{behind}");
            let slash = if slash { "/" } else { "" };
            let encoding = if zstd { Encoding::Zstd } else { Encoding::Identity };
            let expected = BlobName { digest, encoding };
            let read = format!("{slash}{}", joined(&instance, &blob));
            prop_assert_eq!(BlobName::to_read(&read).unwrap(), expected);
            prop_assert!(BlobName::to_write(&read).is_err());
            let upload = joined(&instance, &format!("uploads/{uuid}/{blob}"));
            let write = format!("{slash}{upload}");
            prop_assert_eq!(BlobName::to_write(&write).unwrap(), expected);
            prop_assert!(BlobName::to_read(&write).is_err());
        }

        #[test]
        fn any_text_is_refused_or_named(
            name in "(/|blobs|uploads|compressed-blobs|zstd|blake3|[0-9a-f]{64}|1|.){0,20}",
        ) {
            for name in [BlobName::to_read(&name), BlobName::to_write(&name)] {
                if let Err(error) = name {
                    prop_assert_eq!(error.kind(), ErrorKind::InvalidArgument);
                    prop_assert!(error.message().len() < 400);
                }
            }
        }
    }
}
