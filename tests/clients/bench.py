"""The bench that one client is run on: its folders, the server, and the running of commands."""

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from report import Failure

# How long a command may take until it counts as hung, on a slow machine too.
PATIENCE_S = 900
READY = re.compile(r"^zako: ready .*?grpc=(\S+) .*?http=(\S+)")


class Server:
    """A `zako serve` on free ports; started again, it has the same ports and the same store."""

    def __init__(self, bench):
        self.bench, self.process = bench, None
        # Nobody else gets them while the server is down.
        self.ports = Port(), Port()
        self.grpc, self.http = (f"127.0.0.1:{port.number}" for port in self.ports)
        # What it is started with each time.
        self.options = ()

    def start(self, store="store", *options):
        command = [self.bench.command, "serve", "--data", self.bench.root / store, *self.options, *options]
        command += ["--listen", self.grpc, "--http", self.http]
        log = open(self.bench.log_path("server"), "ab")
        self.process = subprocess.Popen(
            [str(word) for word in command], env=self.bench.environment(), cwd=self.bench.root,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
        )
        log.close()
        line = self.process.stdout.readline()
        ready = READY.match(line)
        if not ready:
            self.stop()
            raise Failure(f"`zako serve` said {line!r}\n{tail(self.bench.log_path('server'))}")
        self.grpc, self.http = ready.groups()

    def ensure(self):
        if not self.process:
            self.start()

    def stop(self):
        """Asks the server to end, as an operator would."""
        if self.process:
            self.process.terminate()
            try:
                code = self.process.wait(180)
            except subprocess.TimeoutExpired:
                self.kill()
                raise Failure("`zako serve` doesn't end within 180 s of SIGTERM") from None
            self.process.stdout.close()
            self.process = None
            if code != 0:
                raise Failure(f"`zako serve` ended with {code} after SIGTERM")

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process = None


class Port:
    """A port that nobody else gets until it is closed.

    It is bound and doesn't listen: who is told its number can listen there all the same.
    """

    def __init__(self):
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        # Only now: it must be nobody's, and then be let to others.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.number = self.socket.getsockname()[1]

    def close(self):
        self.socket.close()


class Bench:
    def __init__(self, root, command):
        self.root, self.command = root, command
        self.logs, self.home = self.folder("logs"), self.folder("home")
        self.work, self.state = self.folder("work"), self.folder("state")
        self.trace = root / "trace"
        # While it is there, actions of the later half of a build wait.
        self.hold_file = root / "trace.hold"
        self.server = Server(self)
        self.runs = 0

    def folder(self, name):
        (self.root / name).mkdir(parents=True, exist_ok=True)
        return self.root / name

    def log_path(self, name):
        return self.logs / f"{name}.log"

    def environment(self, **more):
        """What is needed of the caller's environment, without what would configure a tool."""
        kept = ("PATH", "LANG", "TMPDIR", "SSL_CERT_FILE", "PIP_CERT")
        base = {name: os.environ[name] for name in kept if name in os.environ}
        return {**base, "HOME": str(self.home), "TRACE": str(self.trace), **more}

    def write(self, files):
        """Writes the workspace: path and text."""
        for path, text in files.items():
            target = self.work / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)

    def forget(self):
        """Throws away what the tool remembers."""
        remove(self.state)
        self.state.mkdir()

    def ran(self):
        """The names of the actions that ran, since the trace was last begun."""
        return sorted(self.trace.read_text().split()) if self.trace.exists() else []

    def hold(self):
        """Has actions wait that begin when half of a build is done."""
        self.hold_file.touch()

    def release(self):
        self.hold_file.unlink(missing_ok=True)

    def begin(self, log, command, env=None):
        """Starts a command in the workspace, with what it says in a log."""
        with open(log, "ab") as out:
            return subprocess.Popen(
                [str(word) for word in command], cwd=self.work, env=env or self.environment(),
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )

    def run(self, name, command, env=None, meanwhile=None, may_fail=False):
        """Runs a command to its end, with what it says in a log. Returns the text.

        `meanwhile` is called again and again while it runs, until it returns true.
        """
        self.runs += 1
        log = self.log_path(f"{self.runs:02}-{name}")
        words = [str(word) for word in command]
        process = self.begin(log, words, env)
        end = time.monotonic() + PATIENCE_S
        try:
            while process.poll() is None:
                if meanwhile and meanwhile():
                    meanwhile = None
                if time.monotonic() > end:
                    raise Failure(f"`{' '.join(words)}` hangs\n{tail(log)}")
                time.sleep(0.02)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        text = log.read_text(errors="replace")
        if process.returncode != 0 and not may_fail:
            raise Failure(f"`{' '.join(words)}` ended with {process.returncode}\n{tail(log)}")
        return text

    def zako(self, *arguments):
        done = subprocess.run(
            [str(self.command), *map(str, arguments)], env=self.environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        if done.returncode != 0:
            raise Failure(f"`zako {' '.join(map(str, arguments))}`: {done.stderr.strip()}")
        return done.stdout

    def close(self):
        self.server.kill()
        for port in self.server.ports:
            port.close()


def digests(folder):
    """Every file and link under a folder, with what it holds."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            executable = "x" if os.access(path, os.X_OK) and path.stat().st_mode & 0o100 else "-"
            found[name] = executable + hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def remove(path):
    """Removes a folder, with what is write-protected in it."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        for folder, _, _ in os.walk(path):
            os.chmod(folder, 0o700)
        shutil.rmtree(path)


def tail(log, lines=12):
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
