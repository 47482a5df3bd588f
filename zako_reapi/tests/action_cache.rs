//! Action results, as clients store and find them.
#![allow(clippy::unwrap_used)]

mod support;

use bytes::Bytes;
use prost::Message;
use support::{TestServer, random};
use tonic::Code;
use tonic::transport::Channel;
use zako_core::server::ServerOptions;
use zako_reapi::digest::{DigestFunction, RemoteDigest};
use zako_reapi::proto::reapi::action_cache_client::ActionCacheClient;
use zako_reapi::proto::reapi::{
    ActionResult, Directory, DirectoryNode, FileNode, GetActionResultRequest, OutputDirectory,
    OutputFile, Tree, UpdateActionResultRequest,
};
use zako_reapi::{ActionUpdates, CacheOptions};

const FUNCTIONS: [DigestFunction; 3] = [
    DigestFunction::Sha256,
    DigestFunction::Blake3,
    DigestFunction::Sha512,
];

/// A client of one instance that names blobs by one function.
struct Client {
    actions: ActionCacheClient<Channel>,
    instance: &'static str,
    function: DigestFunction,
}

impl Client {
    fn new(server: &TestServer, instance: &'static str, function: DigestFunction) -> Self {
        let actions = ActionCacheClient::new(server.channel.clone());
        Self {
            actions,
            instance,
            function,
        }
    }

    fn digest(&self, data: &[u8]) -> RemoteDigest {
        self.function.digest(data)
    }

    fn request(&self, action: &RemoteDigest) -> GetActionResultRequest {
        GetActionResultRequest {
            instance_name: self.instance.to_owned(),
            action_digest: Some(action.to_wire()),
            digest_function: self.function.wire() as i32,
            ..GetActionResultRequest::default()
        }
    }

    async fn get(&mut self, action: &RemoteDigest) -> Result<ActionResult, Code> {
        self.ask(self.request(action)).await
    }

    async fn ask(&mut self, request: GetActionResultRequest) -> Result<ActionResult, Code> {
        let answer = self.actions.get_action_result(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|s| s.code())
    }

    async fn update(&mut self, action: &RemoteDigest, result: &ActionResult) -> Result<(), Code> {
        let request = UpdateActionResultRequest {
            instance_name: self.instance.to_owned(),
            action_digest: Some(action.to_wire()),
            action_result: Some(result.clone()),
            digest_function: self.function.wire() as i32,
            ..UpdateActionResultRequest::default()
        };
        let answer = self.actions.update_action_result(request).await;
        let answer = answer.map_err(|status| status.code())?.into_inner();
        assert_eq!(&answer, result);
        Ok(())
    }
}

fn output(path: &str, digest: RemoteDigest) -> OutputFile {
    OutputFile {
        path: path.to_owned(),
        digest: Some(digest.to_wire()),
        ..OutputFile::default()
    }
}

fn directory(files: &[RemoteDigest], directories: &[RemoteDigest]) -> Directory {
    let file = |digest: &RemoteDigest| FileNode {
        name: digest.hex(),
        digest: Some(digest.to_wire()),
        ..FileNode::default()
    };
    let node = |digest: &RemoteDigest| DirectoryNode {
        name: digest.hex(),
        digest: Some(digest.to_wire()),
    };
    Directory {
        files: files.iter().map(file).collect(),
        directories: directories.iter().map(node).collect(),
        ..Directory::default()
    }
}

fn encoded(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

#[tokio::test]
async fn a_result_is_found_once_all_that_it_names_is_there() {
    let server = TestServer::start().await;
    for function in FUNCTIONS {
        let mut client = Client::new(&server, "a/b", function);
        let file = |_| random(300);
        let [top, deep, plain, out, err, lone]: [Bytes; 6] = std::array::from_fn(file);
        let name = |data: &Bytes| function.digest(data);
        let child = directory(&[name(&deep)], &[]);
        let root = directory(&[name(&top)], &[name(&encoded(&child))]);
        let tree = encoded(&Tree {
            root: Some(root.clone()),
            children: vec![child],
        });
        let below = encoded(&directory(&[name(&lone)], &[]));
        let above = encoded(&directory(&[], &[name(&below)]));
        let result = ActionResult {
            output_files: vec![output("plain", name(&plain))],
            output_directories: vec![
                OutputDirectory {
                    path: "tree".to_owned(),
                    tree_digest: Some(name(&tree).to_wire()),
                    ..OutputDirectory::default()
                },
                OutputDirectory {
                    path: "root".to_owned(),
                    root_directory_digest: Some(name(&above).to_wire()),
                    ..OutputDirectory::default()
                },
            ],
            stdout_digest: Some(name(&out).to_wire()),
            stderr_digest: Some(name(&err).to_wire()),
            exit_code: 3,
            ..ActionResult::default()
        };
        let action = function.digest(&random(20));
        assert_eq!(client.get(&action).await, Err(Code::NotFound));
        client.update(&action, &result).await.unwrap();
        // The last one first, so that each is what is wanting.
        for blob in [lone, below, above, deep, top, tree, err, out, plain] {
            assert_eq!(client.get(&action).await, Err(Code::NotFound));
            server.cache.put(name(&blob), blob).await.unwrap();
        }
        assert_eq!(client.get(&action).await, Ok(result));
    }
    server.stop().await;
}

#[tokio::test]
async fn what_was_deleted_makes_a_miss_of_the_result() {
    let server = TestServer::start().await;
    for function in FUNCTIONS {
        let mut client = Client::new(&server, "", function);
        let data = random(1000);
        let digest = client.digest(&data);
        let own = zako_digest::hash::bytes(&data);
        let tree = encoded(&Tree {
            root: Some(directory(&[digest], &[])),
            ..Tree::default()
        });
        let tree_digest = client.digest(&tree);
        let result = ActionResult {
            output_directories: vec![OutputDirectory {
                tree_digest: Some(tree_digest.to_wire()),
                ..OutputDirectory::default()
            }],
            ..ActionResult::default()
        };
        let action = client.digest(&random(20));
        client.update(&action, &result).await.unwrap();
        server.cache.put(tree_digest, tree).await.unwrap();
        server.cache.put(digest, data.clone()).await.unwrap();
        client.get(&action).await.unwrap();
        let deleted = zako_core::cas::Cas::delete(&server.store, &own).await;
        assert!(deleted.unwrap());
        assert_eq!(client.get(&action).await, Err(Code::NotFound));
        server.cache.put(digest, data).await.unwrap();
        client.get(&action).await.unwrap();
    }
    server.stop().await;
}

#[tokio::test]
async fn directories_count_where_the_result_offers_them_beside_the_tree() {
    let server = TestServer::start().await;
    let mut client = Client::new(&server, "", DigestFunction::Sha256);
    let child = directory(&[], &[]);
    let child = Directory {
        node_properties: Some(Default::default()),
        ..child
    };
    let root = directory(&[], &[client.digest(&encoded(&child))]);
    let tree = encoded(&Tree {
        root: Some(root.clone()),
        children: vec![child.clone()],
    });
    let (root, child) = (encoded(&root), encoded(&child));
    let mut output = OutputDirectory {
        tree_digest: Some(client.digest(&tree).to_wire()),
        ..OutputDirectory::default()
    };
    let result = |output: &OutputDirectory| ActionResult {
        output_directories: vec![output.clone()],
        ..ActionResult::default()
    };
    server.cache.put(client.digest(&tree), tree).await.unwrap();
    let action = client.digest(b"action");
    client.update(&action, &result(&output)).await.unwrap();
    client.get(&action).await.unwrap();

    output.root_directory_digest = Some(client.digest(&root).to_wire());
    client.update(&action, &result(&output)).await.unwrap();
    for directory in [root, child] {
        assert_eq!(client.get(&action).await, Err(Code::NotFound));
        let digest = client.digest(&directory);
        server.cache.put(digest, directory).await.unwrap();
    }
    client.get(&action).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_tree_that_is_none_is_a_miss() {
    let server = TestServer::start().await;
    let mut client = Client::new(&server, "", DigestFunction::Sha256);
    let tree = Bytes::from_static(b"\x0a\xff no tree");
    let digest = client.digest(&tree);
    server.cache.put(digest, tree).await.unwrap();
    for output in [
        OutputDirectory {
            tree_digest: Some(digest.to_wire()),
            ..OutputDirectory::default()
        },
        OutputDirectory {
            root_directory_digest: Some(digest.to_wire()),
            ..OutputDirectory::default()
        },
    ] {
        let action = client.digest(&random(20));
        let result = ActionResult {
            output_directories: vec![output],
            ..ActionResult::default()
        };
        client.update(&action, &result).await.unwrap();
        assert_eq!(client.get(&action).await, Err(Code::NotFound));
    }
    server.stop().await;
}

#[tokio::test]
async fn results_are_by_instance_and_function() {
    let server = TestServer::start().await;
    let mut client = Client::new(&server, "one", DigestFunction::Sha256);
    let action = client.digest(b"an action");
    let result = ActionResult {
        exit_code: 1,
        ..ActionResult::default()
    };
    client.update(&action, &result).await.unwrap();
    let mut request = client.request(&action);
    // An old client doesn't name the function.
    request.digest_function = 0;
    assert_eq!(client.ask(request.clone()).await, Ok(result));
    request.digest_function = DigestFunction::Blake3.wire() as i32;
    assert_eq!(client.ask(request.clone()).await, Err(Code::NotFound));
    request.digest_function = 0;
    request.instance_name = "one/more".to_owned();
    assert_eq!(client.ask(request).await, Err(Code::NotFound));
    let other = ActionResult {
        exit_code: 2,
        ..ActionResult::default()
    };
    client.update(&action, &other).await.unwrap();
    assert_eq!(client.get(&action).await, Ok(other));
    server.stop().await;
}

#[tokio::test]
async fn what_is_asked_for_is_inlined_as_far_as_it_fits() {
    let server = TestServer::start().await;
    for function in FUNCTIONS {
        let mut client = Client::new(&server, "", function);
        let blobs = [random(100), random(200), random(300), random(5 << 20)];
        let [out, err, file, large] = blobs.clone();
        let [out_digest, err_digest, file_digest, large_digest] =
            blobs.each_ref().map(|blob| client.digest(blob));
        for blob in blobs {
            server
                .cache
                .put(function.digest(&blob), blob)
                .await
                .unwrap();
        }
        let mut result = ActionResult {
            output_files: vec![
                output("large", large_digest),
                output("file", file_digest),
                output("other", file_digest),
            ],
            stdout_digest: Some(out_digest.to_wire()),
            stderr_digest: Some(err_digest.to_wire()),
            ..ActionResult::default()
        };
        let action = client.digest(&random(20));
        client.update(&action, &result).await.unwrap();
        assert_eq!(client.get(&action).await.unwrap(), result);

        let mut request = client.request(&action);
        request.inline_stdout = true;
        result.stdout_raw = out;
        assert_eq!(client.ask(request.clone()).await.unwrap(), result);

        request.inline_stderr = true;
        request.inline_output_files = ["file", "large", "none"].map(str::to_owned).into();
        result.stderr_raw = err;
        result.output_files[1].contents = file;
        assert_eq!(client.ask(request).await.unwrap(), result);
        drop(large);
    }
    server.stop().await;
}

#[tokio::test]
async fn what_came_inlined_stays() {
    let server = TestServer::start().await;
    let mut client = Client::new(&server, "", DigestFunction::Sha256);
    let data = random(10);
    let digest = client.digest(&data);
    server.cache.put(digest, data).await.unwrap();
    let result = ActionResult {
        stdout_raw: Bytes::from_static(b"as it came"),
        stdout_digest: Some(digest.to_wire()),
        stderr_raw: Bytes::from_static(b"no digest"),
        // As good as none.
        stderr_digest: Some(Default::default()),
        ..ActionResult::default()
    };
    let action = client.digest(b"action");
    client.update(&action, &result).await.unwrap();
    let mut request = client.request(&action);
    request.inline_stdout = true;
    request.inline_stderr = true;
    assert_eq!(client.ask(request).await, Ok(result));
    server.stop().await;
}

#[tokio::test]
async fn digests_that_are_none_are_refused() {
    let server = TestServer::start().await;
    let mut client = Client::new(&server, "", DigestFunction::Sha256);
    let action = client.digest(b"action");
    let good = client.digest(b"data");
    let mut wrong = output("file", good);
    wrong.digest.as_mut().unwrap().hash.pop();
    for result in [
        ActionResult {
            output_files: vec![wrong],
            ..ActionResult::default()
        },
        ActionResult {
            output_files: vec![OutputFile::default()],
            ..ActionResult::default()
        },
        ActionResult {
            output_directories: vec![OutputDirectory::default()],
            ..ActionResult::default()
        },
        ActionResult {
            stdout_digest: Some(zako_reapi::proto::reapi::Digest {
                size_bytes: -1,
                ..good.to_wire()
            }),
            ..ActionResult::default()
        },
    ] {
        let refused = client.update(&action, &result).await;
        assert_eq!(refused, Err(Code::InvalidArgument));
    }
    let long = ActionResult {
        output_directories: vec![OutputDirectory {
            tree_digest: Some(zako_reapi::proto::reapi::Digest {
                size_bytes: 1 << 40,
                ..good.to_wire()
            }),
            ..OutputDirectory::default()
        }],
        ..ActionResult::default()
    };
    let refused = client.update(&action, &long).await;
    assert_eq!(refused, Err(Code::ResourceExhausted));
    assert_eq!(client.get(&action).await, Err(Code::NotFound));
    let nothing = GetActionResultRequest::default();
    assert_eq!(client.ask(nothing).await, Err(Code::InvalidArgument));
    let nothing = UpdateActionResultRequest::default();
    let refused = client.actions.update_action_result(nothing).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test]
async fn updates_can_be_refused_or_dropped() {
    for (updates, expected) in [
        (ActionUpdates::Refused, Err(Code::PermissionDenied)),
        (ActionUpdates::Dropped, Ok(())),
    ] {
        let mut options = CacheOptions::default();
        options.action_updates = updates;
        let server = TestServer::with(options, ServerOptions::default()).await;
        let mut client = Client::new(&server, "", DigestFunction::Sha256);
        let action = client.digest(b"action");
        let updated = client.update(&action, &ActionResult::default()).await;
        assert_eq!(updated, expected);
        assert_eq!(client.get(&action).await, Err(Code::NotFound));
        server.stop().await;
    }
}

#[tokio::test]
async fn what_is_no_result_is_kept_for_those_who_know_it() {
    let server = TestServer::start().await;
    let mut client = Client::new(&server, "cc", DigestFunction::Sha256);
    let action = client.digest(b"action");
    let opaque = Bytes::from_static(b"\xcc\xac\x01 as ccache stores");
    let cache = &server.cache;
    cache
        .set_action("cc", &action, opaque.clone())
        .await
        .unwrap();
    assert_eq!(cache.action("cc", &action).await.unwrap(), Some(opaque));
    assert_eq!(client.get(&action).await, Err(Code::NotFound));

    // What the other face stores is found here, and the other way round.
    let result = ActionResult {
        exit_code: 9,
        ..ActionResult::default()
    };
    let data = encoded(&result);
    cache.set_action("cc", &action, data.clone()).await.unwrap();
    assert_eq!(client.get(&action).await, Ok(result));
    let incomplete = ActionResult {
        output_files: vec![output("file", client.digest(b"absent"))],
        ..ActionResult::default()
    };
    client.update(&action, &incomplete).await.unwrap();
    assert_eq!(cache.action("cc", &action).await.unwrap(), None);
    server.stop().await;
}

#[tokio::test]
async fn fields_of_later_versions_are_kept() {
    let server = TestServer::start().await;
    let mut client = Client::new(&server, "", DigestFunction::Sha256);
    let action = client.digest(b"action");
    let mut data = encoded(&ActionResult {
        exit_code: 7,
        ..ActionResult::default()
    })
    .to_vec();
    // Field 1000, a varint.
    data.extend([0xc0, 0x3e, 0x05]);
    let data = Bytes::from(data);
    server
        .cache
        .set_action("", &action, data.clone())
        .await
        .unwrap();
    assert_eq!(server.cache.action("", &action).await.unwrap(), Some(data));
    assert_eq!(client.get(&action).await.unwrap().exit_code, 7);
    server.stop().await;
}
