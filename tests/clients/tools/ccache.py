"""ccache over HTTP, in the layout of Bazel's caches."""

import readme
from scenario import Build, Client
from tools import c_sources


class Ccache(Client):
    actions = c_sources.NAMES

    def __init__(self, name, title, path, brief=False):
        self.name, self.title, self.path, self.brief = name, title, path, brief

    def install(self, shelf):
        installed = [shelf.debian("gcc", "cc"), shelf.debian("ccache", "ccache")]
        return ", ".join(filter(None, installed))

    def write(self, bench, salt):
        c_sources.write(bench, salt)

    def forget(self, bench, process=True):
        c_sources.forget(bench)

    def build(self, bench, name, cached=True, meanwhile=None, again=False):
        remote = readme.block("ccache", bench.server).replace("|", f"{self.path}|") if cached else ""
        bench.write({"ccache.conf": remote})
        configuration = str(bench.work / "ccache.conf")
        env = bench.environment(CCACHE_DIR=str(bench.state), CCACHE_CONFIGPATH=configuration)
        outputs = c_sources.compile_all(bench, name, ["ccache"], env, meanwhile)
        counts = bench.run(f"{name}-stats", ["ccache", "--print-stats"], env)
        hits = next(line.split()[1] for line in counts.splitlines() if line.startswith("remote_storage_hit\t"))
        return Build(int(hits), bench.ran(), outputs)


CLIENTS = [
    Ccache("ccache", "ccache over HTTP, layout=bazel", ""),
    Ccache("ccache-instance", "ccache over HTTP, layout=bazel, in an instance", "/team/c", brief=True),
]
