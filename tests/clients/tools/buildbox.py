"""buildbox-casd as a proxy in front of the cache, with and without chunks.

It builds nothing: an action here is a folder that is captured, and its result, that are stored
through the proxy; a hit is that the same comes back through a new one.
"""

import random
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path

import readme
from bench import PATIENCE_S, digests, remove
from install import Skip
from report import Failure
from scenario import Build, Client

VERSION = "2.8.1"
MIB = 1 << 20


class Casd(Client):
    actions = ("capture",)
    lost, rerun = "folder/half", ("capture",)
    dies_with_cache = needs_cache = "a proxy has nothing to fall back on"

    def __init__(self, name, title, chunked, tls=False):
        self.name, self.title, self.chunked, self.tls = name, title, chunked, tls
        # What differs with TLS is how it connects.
        self.brief = tls

    def install(self, shelf):
        self.folder, installed = shelf.python("BuildStream", VERSION)
        if self.tls and not shutil.which("openssl"):
            raise Skip("openssl, which makes the certificate, is not installed")
        packages = self.folder / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
        self.casd = packages / "buildstream/subprojects/buildbox/buildbox-casd"
        return installed

    def prepare(self, bench):
        if not self.tls:
            return
        certificate, key = (bench.root / name for name in ("server.pem", "server-key.pem"))
        bench.run("certificate", [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            "-subj", "/CN=zako", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
            "-keyout", key, "-out", certificate,
        ])
        bench.server.options = ("--tls-cert", certificate, "--tls-key", key)

    def write(self, bench, salt):
        noise = random.Random(salt)
        big = noise.randbytes(9 * MIB)
        folder = bench.work / "source/folder"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "big").write_bytes(big)
        # Most of its chunks are those of the first.
        (folder / "edited").write_bytes(big[:4 * MIB] + b"edited" + big[4 * MIB:])
        (folder / "half").write_bytes(noise.randbytes(MIB // 2))
        (folder / "empty").write_bytes(b"")
        for i in range(200):
            (folder / f"small{i}").write_text(f"{salt} {i}\n")
        (folder / "small0").chmod(0o755)
        if not (folder / "link").is_symlink():
            (folder / "link").symlink_to("small1")

    def forget(self, bench, process=True):
        bench.forget()
        remove(bench.work / "restored")

    def build(self, bench, name, cached=True, meanwhile=None, again=False):
        restored = bench.work / "restored"
        with Proxy(self, bench, name) as speak:
            hit = "hit" in speak("restore", restored)
            if not hit:
                speak("store", bench.work / "source")
                bench.trace.write_text("capture\n")
        if hit and self.chunked:
            self.expect_chunks(bench, name)
        if hit:
            return Build(1, [], digests(restored))
        return Build(0, bench.ran(), digests(bench.work / "source"))

    def expect_chunks(self, bench, name):
        """Fails unless the large files went to the server in chunks."""
        file = bench.work / "source/folder/edited"
        said = bench.run(f"{name}-chunks", self.driver(bench.server.grpc, "team/casd", "chunks", file))
        # A chunk has 512 KiB on average, and 2 MiB at most.
        if int(said) < file.stat().st_size // (2 * MIB):
            raise Failure(f"the server has {said.strip()} chunks of {file.stat().st_size} bytes")

    def driver(self, *arguments):
        return [self.folder / "bin/python", Path(__file__).parents[1] / "casd_client.py", *arguments]

    def lost_file(self, bench):
        return bench.work / "source" / self.lost


class Proxy:
    """A casd with an empty cache of its own. What it says is looked through for errors."""

    def __init__(self, client, bench, name):
        self.client, self.bench, self.name = client, bench, name
        # The path of a socket has to be short.
        self.folder = tempfile.TemporaryDirectory(prefix="casd-")
        self.socket = Path(self.folder.name) / "socket"
        self.log = bench.log_path(f"{name}-casd")

    def __enter__(self):
        words = shlex.split(readme.block("buildbox-casd", self.bench.server))
        if self.client.tls:
            words = [word.replace("--remote=http:", "--remote=https:") for word in words]
            words.append(f"--server-cert={self.bench.root / 'server.pem'}")
        options = [word for word in words if word.startswith("--") and not word.startswith("--bind=")]
        if not self.client.chunked:
            options = [option for option in options if "chunking" not in option]
        self.process = self.bench.begin(self.log, [
            self.client.casd, *options, f"--bind=unix:{self.socket}", "--instance=team/casd",
            "--retry-limit=0", self.bench.state / "casd",
        ])
        end = time.monotonic() + PATIENCE_S
        while not self.socket.exists():
            if self.process.poll() is not None or time.monotonic() > end:
                self.__exit__()
                raise Failure(f"buildbox-casd doesn't start:\n{self.log.read_text()[-800:]}")
            time.sleep(0.02)
        return self.speak

    def speak(self, verb, folder):
        command = self.client.driver(f"unix:{self.socket}", "zako", verb, folder)
        return self.bench.run(f"{self.name}-{verb}", command)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()


CLIENTS = [
    Casd("casd", "buildbox-casd as a proxy", chunked=False),
    Casd("casd-tls", "buildbox-casd as a proxy, over TLS", chunked=False, tls=True),
    Casd("casd-chunks", "buildbox-casd as a proxy, with chunks", chunked=True),
]
