"""Speaks with a buildbox-casd as BuildStream does; runs with BuildStream's own Python.

    casd_client.py SOCKET INSTANCE store FOLDER       captures a folder, and an action that made it
    casd_client.py SOCKET INSTANCE restore FOLDER     gets the action's folder back, into a new one
    casd_client.py SERVER INSTANCE chunks FILE        tells how many chunks the server has of a file
"""

import hashlib
import shutil
import sys
import threading

import grpc
from buildstream._protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from buildstream._protos.build.bazel.remote.execution.v2 import remote_execution_pb2_grpc as services
from buildstream._protos.build.buildgrid import local_cas_pb2 as local
from buildstream._protos.build.buildgrid import local_cas_pb2_grpc as local_services

PATIENCE_S = 300
ACTION = reapi.Digest(hash="ac" * 32, size_bytes=77)


def main(address, instance, verb, path):
    channel = grpc.insecure_channel(address)
    grpc.channel_ready_future(channel).result(PATIENCE_S)
    try:
        {"store": store, "restore": restore, "chunks": chunks}[verb](channel, instance, path)
    except grpc.RpcError as error:
        sys.exit(f"{verb}: {error.code().name}: {error.details()}")


def store(channel, instance, folder):
    cas = local_services.LocalContentAddressableStorageStub(channel)
    tree_and_directory = reapi.Command.TREE_AND_DIRECTORY
    captured = cas.CaptureTree(local.CaptureTreeRequest(
        instance_name=instance, path=[folder], output_directory_format=tree_and_directory)).responses[0]
    if captured.status.code:
        sys.exit(f"CaptureTree: {captured.status.message}")
    result = reapi.ActionResult(stdout_raw=b"captured\n")
    result.output_directories.add(
        path="out", tree_digest=captured.tree_digest,
        root_directory_digest=captured.root_directory_digest)
    services.ActionCacheStub(channel).UpdateActionResult(reapi.UpdateActionResultRequest(
        instance_name=instance, action_digest=ACTION, action_result=result))


def restore(channel, instance, folder):
    try:
        result = services.ActionCacheStub(channel).GetActionResult(
            reapi.GetActionResultRequest(instance_name=instance, action_digest=ACTION))
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.NOT_FOUND:
            raise
        print("miss")
        return
    cas = local_services.LocalContentAddressableStorageStub(channel)
    root = result.output_directories[0].root_directory_digest
    cas.FetchTree(local.FetchTreeRequest(
        instance_name=instance, root_digest=root, fetch_file_blobs=True))
    # What is staged is there as long as the request's stream is open.
    staged, done = f"{folder}.staged", threading.Event()

    def requests():
        yield local.StageTreeRequest(instance_name=instance, root_digest=root, path=staged)
        done.wait(PATIENCE_S)

    for _ in cas.StageTree(requests()):
        shutil.copytree(staged, folder, symlinks=True)
        done.set()
    print("hit")


def chunks(channel, instance, path):
    # BuildStream's messages are older than SplitBlob. Its request begins like that of
    # FindMissingBlobs with one digest, and its answer is read like a Directory: a chunk's digest
    # has its hash where a file has its name.
    with open(path, "rb") as file:
        content = file.read()
    digest = reapi.Digest(hash=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
    split = channel.unary_unary(
        "/build.bazel.remote.execution.v2.ContentAddressableStorage/SplitBlob",
        request_serializer=reapi.FindMissingBlobsRequest.SerializeToString,
        response_deserializer=reapi.Directory.FromString)
    answer = split(reapi.FindMissingBlobsRequest(instance_name=instance, blob_digests=[digest]))
    print(len(answer.files))


if __name__ == "__main__":
    main(*sys.argv[1:])
