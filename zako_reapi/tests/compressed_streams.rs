//! Blobs are written and read compressed by ByteStream.
#![allow(clippy::unwrap_used)]

mod support;

use bytes::Bytes;
use support::streams::{
    messages, query, read, read_part, send, to_read, to_read_zstd, to_write, to_write_zstd,
    unfinished, write,
};
use support::{TestServer, blake3, random, sha256};
use tonic::Code;
use zako_reapi::digest::DigestFunction;

/// What compresses well at some places.
fn sample(size: usize) -> Bytes {
    let mut data = vec![b'x'; size];
    for piece in data.chunks_mut(1000).step_by(3) {
        piece.copy_from_slice(&random(piece.len()));
    }
    data.into()
}

fn zstd(data: &[u8]) -> Bytes {
    zstd::encode_all(data, 3).unwrap().into()
}

fn unzstd(data: &[u8]) -> Vec<u8> {
    zstd::decode_all(data).unwrap()
}

#[tokio::test]
async fn every_blob_is_readable_both_ways_however_it_came() {
    let server = TestServer::start().await;
    for function in DigestFunction::ALL {
        for size in [1, 8192, 1 << 20, (1 << 20) + 1, 5 << 20] {
            for packed in [false, true] {
                let data = sample(size);
                let digest = function.digest(&data);
                let committed = if packed {
                    let packed = zstd(&data);
                    let name = to_write_zstd(&digest);
                    let committed = write(&server.channel, &name, &packed).await;
                    assert_eq!(committed.unwrap(), packed.len() as i64);
                    // Again: it is there.
                    write(&server.channel, &name, &packed).await
                } else {
                    write(&server.channel, &to_write(&digest), &data)
                        .await
                        .unwrap();
                    write(&server.channel, &to_write_zstd(&digest), &zstd(&data)).await
                };
                assert_eq!(committed.unwrap(), -1);
                let plain = read(&server.channel, &to_read(&digest)).await.unwrap();
                assert!(plain == data, "{digest}");
                let packed = read(&server.channel, &to_read_zstd(&digest)).await.unwrap();
                assert!(unzstd(&packed) == data, "{digest}");
                assert!(size < 8192 || packed.len() < size / 2);
                let own = read(&server.channel, &to_read_zstd(&blake3(&data))).await;
                assert!(unzstd(&own.unwrap()) == data);
            }
        }
    }
    let empty = to_read_zstd(&sha256(b""));
    let empty = read(&server.channel, &empty).await.unwrap();
    assert!(!empty.is_empty() && unzstd(&empty).is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_compressed_read_counts_uncompressed_bytes() {
    let server = TestServer::start().await;
    let data = sample(700_000);
    let digest = sha256(&data);
    write(&server.channel, &to_write(&digest), &data)
        .await
        .unwrap();
    let name = to_read_zstd(&digest);
    for offset in [1usize, 65_536, 699_999, 700_000] {
        let packed = read_part(&server.channel, &name, offset as i64, 0).await;
        assert!(unzstd(&packed.unwrap()) == data[offset..], "{offset}");
    }
    for (offset, limit, code) in [
        (0, 1, Code::InvalidArgument),
        (0, -1, Code::InvalidArgument),
        (-1, 0, Code::OutOfRange),
        (700_001, 0, Code::OutOfRange),
    ] {
        let error = read_part(&server.channel, &name, offset, limit).await;
        assert_eq!(error.unwrap_err().code(), code, "{offset} {limit}");
    }
    let absent = read(&server.channel, &to_read_zstd(&sha256(b"absent"))).await;
    assert_eq!(absent.unwrap_err().code(), Code::NotFound);
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_the_blob_by_zstd_is_refused_and_not_stored() {
    let server = TestServer::start().await;
    for size in [10_000, 3 << 20] {
        for function in [DigestFunction::Sha256, DigestFunction::Blake3] {
            let data = sample(size);
            let digest = function.digest(&data);
            let good = zstd(&data);
            let with = |more: &[u8]| Bytes::from([&good[..], more].concat());
            let longer = zstd(&[&data[..], b"x"].concat());
            // Frames that hold nothing.
            let endless = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0].repeat(size.max(50_000));
            for (bad, text) in [
                (good.slice(..good.len() - 1), "inside a zstd frame"),
                (with(b"garbage"), "no zstd"),
                (data.clone(), "no zstd"),
                (longer, "more bytes came"),
                (zstd(&data[1..]), "finished at"),
                (zstd(&sample(size)), ""),
                (zstd(&vec![0; 64 << 20]), "more bytes came"),
                (endless.into(), "compressed bytes came"),
            ] {
                let error = write(&server.channel, &to_write_zstd(&digest), &bad).await;
                let error = error.unwrap_err();
                assert_eq!(error.code(), Code::InvalidArgument, "{text}: {error}");
                assert!(error.message().contains(text), "{text}: {error}");
                let absent = read(&server.channel, &to_read(&digest)).await;
                assert_eq!(absent.unwrap_err().code(), Code::NotFound);
            }
            // Frames that follow one another are as good as one.
            let (front, back) = data.split_at(size / 3);
            let two: Bytes = [&zstd(front)[..], &zstd(back)].concat().into();
            let committed = write(&server.channel, &to_write_zstd(&digest), &two).await;
            assert_eq!(committed.unwrap(), two.len() as i64);
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_window_has_a_bound() {
    let server = TestServer::start().await;
    let data = sample(100_000);
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    std::io::Write::write_all(&mut encoder, &data).unwrap();
    let wide = encoder.finish().unwrap().into();
    let name = to_write_zstd(&sha256(&data));
    let error = write(&server.channel, &name, &wide).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("memory"), "{error}");
    server.stop().await;
}

#[tokio::test]
async fn a_compressed_write_begins_anew() {
    let server = TestServer::start().await;
    for size in [10_000, 3 << 20] {
        let data = sample(size);
        let digest = sha256(&data);
        let name = to_write_zstd(&digest);
        let packed = zstd(&data);
        let part = unfinished(&name, 0, &packed.slice(..packed.len() / 2));
        assert_eq!(send(&server.channel, part).await.unwrap(), 0);
        let status = query(&server.channel, &name).await.unwrap();
        assert_eq!((status.committed_size, status.complete), (0, false));
        let rest = messages(&name, 100, &packed.slice(100..));
        let error = send(&server.channel, rest).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        let committed = write(&server.channel, &name, &packed).await.unwrap();
        assert_eq!(committed, packed.len() as i64);
        let status = query(&server.channel, &name).await.unwrap();
        assert!(status.complete);
    }
    server.stop().await;
}
