//! Action results.

use std::collections::HashSet;

use bytes::Bytes;
use prost::Message;
use tonic::Status;
use zako_core::access::Role;
use zako_core::cas::{CasError, ErrorKind, Result};
use zako_core::server::{Call, Reply, bad_request, to_status};

use super::{Refused, request, rights, unknown_method};
use crate::cache::{Cache, Hit};
use crate::digest::RemoteDigest;
use crate::proto::reapi::{self, ActionResult, GetActionResultRequest};

/// The longest question: names of files that are to be in the answer.
const MAX_REQUEST: usize = 4 << 20;

/// How long an answer may get by what is inlined: most clients take no message above
/// 4 MiB, and each part has a head.
const INLINED: usize = (4 << 20) - (64 << 10);

/// What a part that is inlined takes beside its bytes.
const PART_HEAD: usize = 16;

/// `UpdateActionResultRequest` with the result as it came, so that what this version
/// doesn't know of it is kept.
#[derive(Clone, PartialEq, Message)]
struct Update {
    #[prost(string, tag = "1")]
    instance_name: String,
    #[prost(message, optional, tag = "2")]
    action_digest: Option<reapi::Digest>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    action_result: Option<Bytes>,
    #[prost(int32, tag = "5")]
    digest_function: i32,
}

/// What is to be inlined, and where.
struct Part {
    digest: RemoteDigest,
    place: Place,
}

enum Place {
    Stdout,
    Stderr,
    /// The content of this output file.
    File(usize),
}

pub(super) async fn answer(cache: &Cache, method: &str, call: Call) -> Result<Reply, Refused> {
    let caller = call.caller();
    let (mut body, _) = call.open()?;
    let reply = match method {
        "GetActionResult" => {
            rights::check_somewhere(&caller, Role::Read)?;
            let request: GetActionResultRequest = body.message(MAX_REQUEST).await?;
            rights::check(&caller, &request.instance_name, Role::Read)?;
            get(cache, request).await?
        }
        "UpdateActionResult" => {
            let most = cache.options().max_message_bytes;
            rights::check_somewhere(&caller, Role::Write)?;
            let request: Update = body.message(most).await?;
            rights::check(&caller, &request.instance_name, Role::Write)?;
            update(cache, request).await?
        }
        _ => return Err(unknown_method().into()),
    };
    Ok(Reply::encoded(&reply))
}

async fn get(cache: &Cache, request: GetActionResultRequest) -> Result<Bytes, Status> {
    let digest = request.action_digest.as_ref();
    let action = request::digest("action_digest", request.digest_function, digest)?;
    let answer = match cache.action_result(&request.instance_name, &action).await {
        Ok(Some(hit)) => inlined(cache, &request, &action, hit).await,
        Ok(None) => Ok(None),
        Err(error) => Err(error),
    };
    let miss = || Status::not_found(format!("no result of the action {action} is here"));
    answer.map_err(|error| to_status(&error))?.ok_or_else(miss)
}

async fn update(cache: &Cache, request: Update) -> Result<Bytes, Status> {
    let digest = request.action_digest.as_ref();
    let action = request::digest("action_digest", request.digest_function, digest)?;
    let missing = || bad_request("action_result", "action_result is missing");
    let result = request.action_result.ok_or_else(missing)?;
    let stored = cache.set_action_result(&request.instance_name, &action, result.clone());
    stored.await.map_err(|error| to_status(&error))?;
    Ok(result)
}

/// The result with what the request wants to have in it, as far as that fits; `None` if
/// some of it is gone after all.
async fn inlined(
    cache: &Cache,
    request: &GetActionResultRequest,
    action: &RemoteDigest,
    hit: Hit,
) -> Result<Option<Bytes>> {
    let Hit { data, mut result } = hit;
    let parts = parts(request, action, &result, INLINED.saturating_sub(data.len()))?;
    if parts.is_empty() {
        return Ok(Some(data));
    }
    let digests: Vec<RemoteDigest> = parts.iter().map(|part| part.digest).collect();
    let (mut outputs, mut files) = (ActionResult::default(), false);
    for (part, content) in parts.iter().zip(cache.fetch_batch(&digests).await) {
        let content = match content {
            Ok(content) => content,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        match part.place {
            Place::Stdout => outputs.stdout_raw = content,
            Place::Stderr => outputs.stderr_raw = content,
            Place::File(at) => {
                result.output_files[at].contents = content;
                files = true;
            }
        }
    }
    let mut answer = match files {
        true => result.encode_to_vec(),
        false => data.to_vec(),
    };
    // Fields that stand behind the others are merged with them.
    answer.extend(outputs.encode_to_vec());
    Ok(Some(answer.into()))
}

fn parts(
    request: &GetActionResultRequest,
    action: &RemoteDigest,
    result: &ActionResult,
    mut budget: usize,
) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut add = |digest: Option<&reapi::Digest>, present: &Bytes, place| {
        let Some(digest) = digest.filter(|digest| digest.size_bytes > 0 && present.is_empty())
        else {
            return Ok::<_, CasError>(());
        };
        let digest = RemoteDigest::of_wire(Some(action.function()), digest)?;
        let size = usize::try_from(digest.size()).unwrap_or(usize::MAX);
        let size = size.saturating_add(PART_HEAD);
        if size <= budget {
            budget -= size;
            parts.push(Part { digest, place });
        }
        Ok(())
    };
    let (stdout, stderr) = (&result.stdout_digest, &result.stderr_digest);
    if request.inline_stdout {
        add(stdout.as_ref(), &result.stdout_raw, Place::Stdout)?;
    }
    if request.inline_stderr {
        add(stderr.as_ref(), &result.stderr_raw, Place::Stderr)?;
    }
    let paths = request.inline_output_files.iter();
    let paths: HashSet<&str> = paths.map(String::as_str).collect();
    for (at, file) in result.output_files.iter().enumerate() {
        if paths.contains(&*file.path) {
            add(file.digest.as_ref(), &file.contents, Place::File(at))?;
        }
    }
    Ok(parts)
}
