"""Pants: shell commands, which need nothing but what is on every machine."""

import re

import readme
from bench import digests, remove
from install import interpreter
from scenario import Build, Client

VERSION = "2.17.1"
BIG = 9_000_000

SETTINGS = """
[GLOBAL]
pants_version = "2.17.1"
backend_packages = ["pants.backend.shell"]
pantsd = false
[stats]
log = true
"""

# Pants looks into the cache and runs the command at the same time, and stops whichever is later. So
# a command is slow, and leaves its trace at the end; what the cache has to have comes first even on
# a slow machine, since its command is held up then. Where a build is held in its middle: see bench.py.
BUILD_FILE = """
file(name="input", source="input.txt")
shell_command(
    name="sorted",
    command="mkdir -p d/a/b; sort input.txt > d/sorted.txt; head -3 input.txt > d/a/b/head;"
    + ": > d/empty; ln -s a/b/head d/link; (cat input.txt; head -c {big} /dev/zero) > d/big;"
    + "sleep 2; i=0; while [ -e $TRACE.slow-sorted ] && [ $i -lt 600 ]; do sleep 0.1; i=$((i+1)); done;"
    + "echo sorted >> $TRACE",
    tools=["cat", "head", "ln", "mkdir", "sleep", "sort"],
    execution_dependencies=[":input"],
    output_directories=["d"],
    extra_env_vars=["TRACE"],
)
shell_command(
    name="joined",
    command="while [ -e $TRACE.hold ]; do sleep 0.1; done;"
    + "cat d/sorted.txt input.txt > joined.txt; date +%s%N > stamp.txt;"
    + "sleep 2; i=0; while [ -e $TRACE.slow-joined ] && [ $i -lt 600 ]; do sleep 0.1; i=$((i+1)); done;"
    + "echo joined >> $TRACE",
    tools=["cat", "date", "sleep"],
    execution_dependencies=[":input", ":sorted"],
    output_files=["joined.txt", "stamp.txt"],
    extra_env_vars=["TRACE"],
)
"""


class Pants(Client):
    name = "pants"
    title = "Pants 2.17 over gRPC"
    actions = ("sorted", "joined")
    stamps = ("stamp.txt",)
    lost, rerun = "joined.txt", ("joined",)

    def install(self, shelf):
        # Its wheels are for this Python; later setuptools lack what it imports.
        self.folder, installed = shelf.python(
            "pantsbuild.pants", VERSION, also=["setuptools<70"], interpreter=interpreter("3.9"))
        return installed

    def write(self, bench, salt):
        bench.write({
            "pants.toml": SETTINGS, "BUILD": BUILD_FILE.replace("{big}", str(BIG)),
            "input.txt": "".join(f"{salt} {i * 7919 % 1000}\n" for i in range(1000)),
        })

    def forget(self, bench, process=True):
        bench.forget()
        remove(bench.work / "dist")

    def build(self, bench, name, cached=True, meanwhile=None, again=False):
        command = [
            self.folder / "bin/pants", "--no-pantsd", "--no-dynamic-ui", "--no-watch-filesystem",
            f"--local-store-dir={bench.state}/store", f"--named-caches-dir={bench.state}/named",
            f"--pants-workdir={bench.state}/work", f"--pants-distdir={bench.work}/dist", "--stats-log",
        ]
        if cached:
            bench.write({"pants.remote.toml": readme.block("Pants", bench.server)})
            command += ["--pants-config-files=pants.remote.toml", "--remote-instance-name=team/pants"]
        cached_ones = self.actions if again else set(self.actions) - {*self.rerun} if name == "lost" else ()
        for action in self.actions:
            held_up = bench.root / f"{bench.trace.name}.slow-{action}"
            held_up.touch() if action in cached_ones else held_up.unlink(missing_ok=True)
        said = bench.run(name, [*command, "export-codegen", ":sorted", ":joined"], meanwhile=meanwhile)
        hits = int(re.search(r"remote_cache_requests_cached: (\d+)", said)[1])
        return Build(hits, bench.ran(), digests(bench.work / "dist/codegen"))

    def lost_file(self, bench):
        return bench.work / "dist/codegen" / self.lost


CLIENTS = [Pants()]
