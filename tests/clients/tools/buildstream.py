"""BuildStream: artifacts and sources over CAS and Remote Asset, built in a sandbox with busybox."""

import re
import shutil

import readme
from bench import digests, remove
from install import Skip, run
from report import Failure
from scenario import Build, Client
from tools.buildbox import VERSION

PROJECT = {
    "project.conf": "name: zako\nmin-version: 2.0\nelement-path: elements\n",
    "elements/base.bst": "kind: import\nsources:\n- kind: local\n  path: files\n",
    "elements/app.bst": """kind: script
build-depends: [base.bst]
config:
  commands:
  - busybox sleep 1
  - busybox mkdir -p /%{install-root}/d
  - busybox sort /input.txt > /%{install-root}/d/sorted.txt
  - busybox cp /big /%{install-root}/d/big
  - busybox ln -s big /%{install-root}/d/link
  - busybox date +%s > /%{install-root}/stamp.txt
""",
}

SETTINGS = """
cachedir: {state}/cache
logdir: {state}/logs
sourcedir: {state}/sources
workspacedir: {state}/workspaces
"""

# Without a server it would try for half a minute.
MORE = "push: true, instance-name: team/bst, connection-config: { retry-limit: 1, retry-delay: 100 }"


class BuildStream(Client):
    name = "buildstream"
    title = "BuildStream with Remote Asset"
    # It pulls what was asked for, and nothing that that needed.
    actions, hits = ("base", "app"), 1
    stamps = ("stamp.txt",)
    lost, rerun = "d/sorted.txt", ("app",)
    dies_with_cache = "BuildStream ends with an error when what it built can't be pushed"

    def install(self, shelf):
        installed = [
            shelf.debian("bubblewrap", "bwrap"), shelf.debian("busybox-static", "busybox"),
        ]
        run(["bwrap", "--ro-bind", "/", "/", "--unshare-all", "true"])
        with open(shutil.which("busybox"), "rb") as program:
            linked = b"/ld-linux" in program.read(4096)
        if linked:
            raise Skip("the busybox here isn't a static one (apt-get install busybox-static)")
        self.folder, wheel = shelf.python("BuildStream", VERSION)
        return ", ".join(filter(None, [*installed, wheel]))

    def write(self, bench, salt):
        bench.write({
            **PROJECT, "files/big": "".join(f"{salt} {i}\n" for i in range(300_000)),
            "files/input.txt": "".join(f"{salt} {i * 7919 % 1000}\n" for i in range(1000)),
        })
        programs = bench.work / "files/bin"
        if not programs.exists():
            programs.mkdir()
            shutil.copy(shutil.which("busybox"), programs / "busybox")
            (programs / "sh").symlink_to("busybox")

    def forget(self, bench, process=True):
        bench.forget()
        remove(bench.work / "checked-out")

    def build(self, bench, name, cached=True, meanwhile=None, again=False):
        settings = SETTINGS.format(state=bench.state)
        if cached:
            settings += readme.block("BuildStream", bench.server).replace("push: true", MORE)
        (bench.state / "settings.yml").write_text(settings)
        bst = [self.folder / "bin/bst", "--no-interactive", "--no-colors",
               "--config", bench.state / "settings.yml"]
        # It finds the programs that come with it beside its own Python.
        said = bench.run(name, [*bst, "build", "app.bst"], meanwhile=meanwhile)
        bench.run(f"{name}-checkout", [
            *bst, "artifact", "checkout", "app.bst", "--directory", bench.work / "checked-out"])
        ran = set(re.findall(r"build:(\w+)\.bst .* START ", said))
        if cached and "Failed to initialize remote" in said and bench.server.process:
            raise Failure(f"BuildStream doesn't take the server:\n{said[-1500:]}")
        pulled = re.search(r"Pull Queue: +processed (\d+)", said)
        return Build(int(pulled[1]) if pulled else 0, sorted(ran), digests(bench.work / "checked-out"))

    def lost_file(self, bench):
        return bench.work / "checked-out" / self.lost


CLIENTS = [BuildStream()]
