"""moon: a chain of tasks with files, a folder, and output on both streams."""

import re

import readme
from bench import digests, remove
from report import Failure
from scenario import Build, Client

VERSION = "2.5.5"
BIG = 9_000_000

WORKSPACE = """
projects: [app]
telemetry: false
vcs: { defaultBranch: main }
"""

PROJECT = """
tasks:
  sort:
    command: sh sort.sh
    inputs: [input.txt, sort.sh]
    outputs: [out/sorted.txt, out/sorted/**/*]
  join:
    command: sh join.sh
    deps: [sort]
    inputs: [input.txt, join.sh]
    outputs: [out/joined.txt, out/stamp.txt]
  pack:
    command: sh pack.sh
    deps: [join]
    inputs: [input.txt, pack.sh]
    outputs: [out/packed/**/*]
"""

SCRIPTS = {
    "sort": "mkdir -p out/sorted/a/b; sort input.txt > out/sorted.txt; sleep 0.2\n"
            "head -3 input.txt > out/sorted/a/b/head; : > out/sorted/empty\n",
    "join": "sleep 0.3; cat input.txt out/sorted.txt > out/joined.txt; date +%s%N > out/stamp.txt\n",
    # Where a build is held in its middle: see bench.py.
    "pack": 'while [ -e "$TRACE.hold" ]; do sleep 0.1; done\n'
            f"mkdir -p out/packed; (cat input.txt; head -c {BIG} /dev/zero) > out/packed/big\n"
            "cp pack.sh out/packed/run.sh; chmod +x out/packed/run.sh; sleep 0.2\n",
}


class Moon(Client):
    actions = tuple(SCRIPTS)
    stamps = ("stamp.txt",)
    lost, rerun = "packed/big", ("pack",)

    def __init__(self, name, title, remote):
        self.name, self.title, self.remote = name, title, remote

    def install(self, shelf):
        git = shelf.debian("git", "git")
        self.path, moon = shelf.npm("@moonrepo/cli", VERSION, "moon")
        return ", ".join(filter(None, [git, moon]))

    def write(self, bench, salt):
        scripts = {f"app/{name}.sh": f"{text}echo {name} on stdout; echo {name} on stderr >&2\n"
                   f'echo {name} >> "$TRACE"\n' for name, text in SCRIPTS.items()}
        bench.write({
            "app/moon.yml": PROJECT, **scripts,
            "app/input.txt": "".join(f"{salt} {i * 7919 % 1000}\n" for i in range(1000)),
        })
        # Without a repository moon hashes nothing, and so it caches nothing.
        git = ["git", "-c", "init.defaultBranch=main", "-c", "user.name=n", "-c", "user.email=n@example.org"]
        if not (bench.work / ".git").exists():
            bench.write({".gitignore": "out\n.moon\n"})
            bench.run("git-init", [*git, "init", "--quiet"])
        bench.run("git-add", [*git, "add", "--all"])
        bench.run("git-commit", [*git, "commit", "--quiet", "--allow-empty", "--message", salt])

    def forget(self, bench, process=True):
        for path in (bench.work / "app/out", bench.work / ".moon/cache", bench.home / ".moon/cache"):
            remove(path)

    def build(self, bench, name, cached=True, meanwhile=None, again=False):
        remote = self.remote(bench.server) if cached else ""
        bench.write({".moon/workspace.yml": WORKSPACE + remote})
        said = bench.run(name, [self.path, "run", "app:pack"], meanwhile=meanwhile)
        tasks = re.search(r"^Tasks: (\d+) completed(?: \((\d+) cached\))?", said, re.MULTILINE)
        if not tasks or int(tasks[1]) != len(SCRIPTS):
            raise Failure(f"moon didn't complete {len(SCRIPTS)} tasks:\n{said[-800:]}")
        from_remote = said.count("cached from remote")
        if int(tasks[2] or 0) != from_remote:
            raise Failure(f"of {tasks[2] or 0} cached tasks {from_remote} are from the remote cache")
        if again and not all(f"{task} on {stream}" in said for task in SCRIPTS for stream in ("stdout", "stderr")):
            raise Failure(f"what tasks wrote to their streams didn't come from the cache:\n{said[-800:]}")
        return Build(from_remote, bench.ran(), digests(bench.work / "app/out"))

    def lost_file(self, bench):
        return bench.work / "app/out" / self.lost


def plain(server):
    return readme.block("moon", server).replace("compression: zstd", "instanceName: team/moon")


def zstd(server):
    return readme.block("moon", server)


def http(server):
    return readme.block("moon", server, 1)


CLIENTS = [
    Moon("moon-grpc", "moon over gRPC", plain),
    Moon("moon-zstd", "moon over gRPC, zstd", zstd),
    Moon("moon-http", "moon over HTTP", http),
]
