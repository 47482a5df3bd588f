"""sccache by WebDAV."""

import json

import readme
from bench import Port
from scenario import Build, Client
from tools import c_sources

VERSION = "0.16.0"


class Sccache(Client):
    actions = c_sources.NAMES
    needs_cache = "sccache doesn't start without its storage"

    def __init__(self, name, title, prefix, brief=False):
        self.name, self.title, self.prefix, self.brief = name, title, prefix, brief
        self.daemon = self.port = None

    def install(self, shelf):
        compiler = shelf.debian("gcc", "cc")
        folder, sccache = shelf.python("sccache", VERSION)
        self.path = folder / "bin/sccache"
        return ", ".join(filter(None, [compiler, sccache]))

    def write(self, bench, salt):
        c_sources.write(bench, salt)

    def forget(self, bench, process=True):
        self.leave(bench)
        c_sources.forget(bench)

    def build(self, bench, name, cached=True, meanwhile=None, again=False):
        self.port = Port()
        env = bench.environment(
            SCCACHE_DIR=str(bench.state), SCCACHE_SERVER_PORT=str(self.port.number),
            SCCACHE_CONF=str(bench.root / "none"), SCCACHE_IDLE_TIMEOUT="900",
        )
        if cached:
            for line in readme.block("sccache", bench.server).splitlines():
                variable, value = line.removeprefix("export ").split("=", 1)
                env[variable] = value
            env["SCCACHE_WEBDAV_KEY_PREFIX"] = self.prefix
        self.daemon = env
        bench.run(f"{name}-start", [self.path, "--start-server"], env)
        outputs = c_sources.compile_all(bench, name, [self.path], env, meanwhile)
        stats = bench.run(f"{name}-stats", [self.path, "--show-stats", "--stats-format", "json"], env)
        hits = sum(json.loads(stats)["stats"]["cache_hits"]["counts"].values())
        # The server ends when it has stored all that it was given to store.
        self.leave(bench)
        return Build(hits, bench.ran(), outputs)

    def leave(self, bench):
        if self.daemon:
            bench.run("stop", [self.path, "--stop-server"], self.daemon, may_fail=True)
            self.daemon = None
        if self.port:
            self.port.close()
            self.port = None


CLIENTS = [
    Sccache("sccache", "sccache by WebDAV", ""),
    Sccache("sccache-prefix", "sccache by WebDAV, with a prefix", "team/c", brief=True),
]
