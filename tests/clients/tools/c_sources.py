"""Sources in C, and a compiler that leaves a trace, for the caches of compilers."""

from bench import digests

NAMES = ("one", "two", "three", "four")

COMPILER = """#!/bin/sh
case " $* " in
  *" -E "*) ;;
  *" -c "*) for word; do case $word in *.c) basename "$word" .c >> "$TRACE";; esac; done; sleep 0.1;;
esac
exec cc "$@"
"""

SOURCE = """#include <stdio.h>
int {name}(int x) {{ return printf("{salt} %d\\n", x); }}
"""


def write(bench, salt):
    bench.write({f"{name}.c": SOURCE.format(name=name, salt=salt) for name in NAMES})
    compiler = bench.folder("bin") / "gcc"
    if not compiler.exists():
        compiler.write_text(COMPILER)
        compiler.chmod(0o755)


def forget(bench):
    bench.forget()
    for name in NAMES:
        (bench.work / f"{name}.o").unlink(missing_ok=True)


def compile_all(bench, run_name, cache, env, meanwhile=None):
    """Compiles all sources, one after the other. Returns the digests of the objects."""
    for name in NAMES:
        words = [bench.root / "bin/gcc", "-O2", "-c", f"{name}.c", "-o", f"{name}.o"]
        bench.run(f"{run_name}-{name}", [*cache, *words], env)
        if meanwhile:
            meanwhile()
    return {name: value for name, value in digests(bench.work).items() if name.endswith(".o")}
