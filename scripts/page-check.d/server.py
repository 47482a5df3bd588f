"""A real server, and what happens on it."""

import hashlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request

# How long an answer may take before it counts as hung, in seconds.
HUNG = 300


class Server:
    def __init__(self, zako, work):
        self.zako, self.work = zako, work
        self.environment = {name: value for name, value in os.environ.items()
                            if not name.startswith("ZAKO_")}
        self.environment["HOME"] = str(work)
        self.log = open(work / "log", "w")
        self.process = subprocess.Popen(
            [zako, "serve", "--json", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0",
             "--admin", "127.0.0.1:0", "--data", str(work / "data"), "--max-size", "256MiB"],
            stdout=subprocess.PIPE, stderr=self.log, env=self.environment, cwd=work)
        ready = json.loads(self.process.stdout.readline())
        self.grpc, self.http, self.admin = (
            f"http://{ready[name]}" for name in ["grpc", "http", "admin"])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(180)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def run(self, *arguments, code=0):
        """Runs a verb; gives what it says."""
        done = subprocess.run([self.zako, *arguments, "--server", self.grpc], cwd=self.work,
                              env=self.environment, capture_output=True, text=True)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stderr}"
        return done.stdout

    def cache(self, path, body=None):
        """Asks the HTTP cache; gives the status."""
        request = urllib.request.Request(
            self.http + path, data=body, method="GET" if body is None else "PUT")
        try:
            with urllib.request.urlopen(request, timeout=HUNG) as answer:
                answer.read()
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def ask(self, path):
        """Asks the admin port; gives the text."""
        with urllib.request.urlopen(self.admin + path, timeout=HUNG) as answer:
            return answer.read().decode()

    def status(self):
        return json.loads(self.ask("/status.json"))


def traffic(server, work, seconds):
    """Puts, gets and asks, for a time; some of it misses, some is refused."""
    folder = work / "tree"
    folder.mkdir()
    for number in range(300):
        (folder / f"small-{number}").write_bytes(os.urandom(500 + 37 * number))
    large = work / "large"
    large.write_bytes(os.urandom(12 << 20))
    until, turn = time.monotonic() + seconds, 0
    while turn == 0 or time.monotonic() < until:
        (folder / "changed").write_bytes(os.urandom(1 << 18))
        tree = server.run("put", "--tree", str(folder)).split()[0]
        server.run("get", tree, "-o", str(work / f"restored-{turn}"))
        for number in range(40):
            body = f"{turn} {number}".encode() * 200
            digest = hashlib.sha256(body).hexdigest()
            assert server.cache(f"/cas/{digest}", body) in (200, 201, 204)
            assert server.cache(f"/cas/{digest}") == 200
            if number % 4 == 0:
                absent = hashlib.sha256(digest.encode()).hexdigest()
                assert server.cache(f"/cas/{absent}") == 404
        assert server.cache("/cas/no-hash") >= 400
        turn += 1
    server.run("put", str(large))
    return large


def damage(server, work, large):
    """Flips a byte of a large blob on disk and reads it, so that the server tells of it."""
    digest = server.run("put", str(large)).split()[0]
    files = [path for path in (work / "data" / "large").rglob("*") if path.is_file()]
    with open(max(files, key=lambda path: path.stat().st_size), "r+b") as file:
        file.seek(5 << 20)
        byte = file.read(1)
        file.seek(5 << 20)
        file.write(bytes([byte[0] ^ 1]))
    server.run("verify", digest, code=4)
