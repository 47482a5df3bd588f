"""Bazel: genrules, and a rule whose output is a folder; nothing that it would have to download."""

import shutil

import readme
from bench import digests
from install import Skip
from report import Failure
from scenario import Build, Client

LEAVES = 4
BIG = 9_000_000

BUILD_FILE = """
load(":tree.bzl", "tree")

# Where a build is held in its middle: see bench.py.
HOLD = "while [ -e $$TRACE.hold ] && [ $$(wc -l < $$TRACE) -ge {half} ]; do sleep 0.1; done; "

genrule(
    name = "sorted",
    srcs = ["input.txt"],
    outs = ["sorted.txt"],
    cmd = "sort $< > $@; echo to stdout; echo to stderr >&2; echo sorted >> $$TRACE",
)

[genrule(
    name = "leaf%d" % i,
    srcs = [":sorted"],
    outs = ["leaf%d.txt" % i],
    cmd = HOLD + "sleep 0.3; (cat $<; echo %d) > $@; echo leaf%d >> $$TRACE" % (i, i),
) for i in range({leaves})]

genrule(
    name = "big",
    srcs = [":sorted"],
    outs = ["big.bin"],
    cmd = HOLD + "(cat $<; head -c {big} /dev/zero) > $@; echo big >> $$TRACE",
)

genrule(
    name = "stamp",
    srcs = [":sorted"],
    outs = ["stamp.txt"],
    cmd = HOLD + "date +%s%N > $@; echo stamp >> $$TRACE",
)

tree(name = "tree", src = ":sorted")
"""

TREE_RULE = """
HOLD = "while [ -e $TRACE.hold ] && [ $(wc -l < $TRACE) -ge {half} ]; do sleep 0.1; done; "

def _tree(ctx):
    out = ctx.actions.declare_directory(ctx.label.name)
    ctx.actions.run_shell(
        inputs = [ctx.file.src],
        outputs = [out],
        command = HOLD + "mkdir -p $1/a/b; cp $2 $1/a/b/copy; head -3 $2 > $1/a/head; : > $1/empty; " +
                  "echo tree >> $TRACE",
        arguments = [out.path, ctx.file.src.path],
        use_default_shell_env = True,
    )
    return [DefaultInfo(files = depset([out]))]

tree = rule(_tree, attrs = {"src": attr.label(allow_single_file = True)})
"""


class Bazel(Client):
    actions = ("sorted", "big", "stamp", "tree", *(f"leaf{i}" for i in range(LEAVES)))
    stamps = ("stamp.txt",)
    lost, rerun = "leaf2.txt", ("leaf2",)

    def __init__(self, name, title, remote, minimal=False, brief=False, back=None):
        self.name, self.title, self.remote, self.back = name, title, remote, back or remote
        self.minimal, self.brief = minimal, brief

    def install(self, shelf):
        installed = shelf.debian("bazel-bootstrap", "bazel")
        if not shutil.which("bazel-4"):
            raise Skip("the Bazel here isn't Debian's bazel-bootstrap, whose rules need no download")
        return installed

    def write(self, bench, salt):
        half = str(-(-len(self.actions) // 2))
        bench.write({
            "WORKSPACE": 'workspace(name = "zako_clients")\n',
            "BUILD": BUILD_FILE.replace("{leaves}", str(LEAVES)).replace("{big}", str(BIG))
                .replace("{half}", half),
            "tree.bzl": TREE_RULE.replace("{half}", half),
            "input.txt": "".join(f"{salt} {i * 7919 % 1000}\n" for i in range(1000)),
        })

    def startup(self, bench):
        # Without $HOME's rc files; the system's rc file is where Debian's Bazel finds itself.
        return ["bazel", f"--output_user_root={bench.state}", "--nohome_rc", "--max_idle_secs=60"]

    def forget(self, bench, process=True):
        if process:
            self.leave(bench)
            bench.forget()
        else:
            bench.run("clean", [*self.startup(bench), "clean", "--symlink_prefix=built-"])

    def build(self, bench, name, cached=True, meanwhile=None, again=False):
        flags = ["--spawn_strategy=local", "--jobs=2", "--color=no", "--curses=no",
                 "--symlink_prefix=built-", f"--action_env=TRACE={bench.trace}"]
        remote = self.back if again else self.remote
        bench.write({".bazelrc": remote(bench.server) if cached else ""})
        minimal = ["--remote_download_minimal"] if self.minimal and cached else []
        command = [*self.startup(bench), "build", *flags]
        said = bench.run(name, [*command, *minimal, "//..."], meanwhile=meanwhile)
        built = bench.work / "built-bin"
        if minimal and hits(said) > 0:
            # Nothing was fetched yet; what a person asks for is, and nothing runs for it.
            there, ran = digests(built), bench.ran()
            if again and there:
                raise Failure(f"--remote_download_minimal fetched {sorted(there)}")
            self.forget(bench, process=again)
            said = bench.run(f"{name}-toplevel", [*command, "--remote_download_toplevel", "//..."])
            if bench.ran() != ran:
                raise Failure(f"--remote_download_toplevel ran {bench.ran()}, after {ran or 'none'}")
        return Build(hits(said), bench.ran(), digests(built))

    def lost_file(self, bench):
        return bench.work / "built-bin" / self.lost

    def leave(self, bench):
        bench.run("shutdown", [*self.startup(bench), "shutdown"], may_fail=True)


def hits(said):
    """The number before "remote cache hit" in the line that sums up."""
    for line in said.splitlines():
        if line.startswith("INFO: ") and " processes: " in line or " process: " in line:
            for part in line.split(": ", 2)[2].rstrip(".").split(", "):
                if part.endswith("remote cache hit"):
                    return int(part.split()[0])
            return 0
    raise Failure(f"Bazel's summary isn't there:\n{said[-500:]}")


def grpc(instance):
    return lambda server: readme.block("Bazel", server) + f"build --remote_instance_name={instance}\n"


def http(path):
    return lambda server: readme.block("Bazel", server, 1).rstrip() + f"{path}\n"


CLIENTS = [
    Bazel("bazel-grpc", "Bazel 4.2 over gRPC", grpc("team/bazel")),
    Bazel("bazel-minimal", "Bazel 4.2 over gRPC, --remote_download_minimal and _toplevel", grpc(""),
          minimal=True),
    Bazel("bazel-http", "Bazel 4.2 over HTTP", http("")),
    Bazel("bazel-http-path", "Bazel 4.2 over HTTP, in an instance", http("/team/bazel"), brief=True),
    Bazel("bazel-across", "Bazel 4.2, stored over gRPC and fetched over HTTP", grpc("team/bazel"),
          back=http("/team/bazel"), brief=True),
]
