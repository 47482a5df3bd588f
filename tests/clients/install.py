"""Gets the tools: from Debian, PyPI and npm, each once, into a folder outside of the sources."""

import contextlib
import fcntl
import glob
import os
import shutil
import subprocess
import sys
from pathlib import Path

PATIENCE_S = 600


class Skip(Exception):
    """The tool can't be had here. The text says why, and what would help."""


class Shelf:
    """The folder of installed tools."""

    def __init__(self, root):
        self.root = root
        # What failed isn't tried again for a tool's next configuration.
        self.failed = {}

    @contextlib.contextmanager
    def alone(self):
        """While this holds, no other run installs anything."""
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def debian(self, package, command):
        """Whether `command` had to be installed, which takes Debian and root."""
        if shutil.which(command):
            return ""
        if not shutil.which("apt-get") or os.geteuid() != 0:
            raise Skip(f"{command} is not installed (on Debian, as root: apt-get install {package})")
        install = ["apt-get", "install", "-y", "--no-install-recommends", package]
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        try:
            run(install, env=quiet)
        except Skip:
            run(["apt-get", "update"], env=quiet)
            run(install, env=quiet)
        if not shutil.which(command):
            raise Skip(f"{package} is installed, but has no {command}")
        return package

    def npm(self, package, version, command):
        """The path of `command` of an npm package, and what was installed."""
        folder = self.root / f"{package.strip('@').replace('/', '-')}-{version}"
        path = folder / "node_modules/.bin" / command
        if path.exists():
            return path, ""
        if not shutil.which("npm"):
            raise Skip("npm is not installed, which gets it")
        with Fresh(folder, self.failed):
            run(["npm", "install", "--no-audit", "--no-fund", "--fetch-retries=1",
                 "--fetch-retry-mintimeout=1000", "--prefix", folder, f"{package}@{version}"])
        return path, f"{package} {version}"

    def python(self, name, version, also=(), interpreter=sys.executable):
        """The environment that has a package of PyPI, and what was installed."""
        folder = self.root / f"{name}-{version}"
        if (folder / "complete").exists():
            return folder, ""
        with Fresh(folder, self.failed):
            run([interpreter, "-m", "venv", folder])
            run([folder / "bin/pip", "install", "--quiet", f"{name}=={version}", *also])
            (folder / "complete").touch()
        return folder, f"{name} {version}"


class Fresh:
    """A folder that is made anew, and isn't left behind half full."""

    def __init__(self, folder, failed):
        self.folder, self.failed = folder, failed

    def __enter__(self):
        if self.folder in self.failed:
            raise self.failed[self.folder]
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def __exit__(self, kind, error, _):
        if kind:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.failed[self.folder] = error


def interpreter(version):
    """The path of a Python of just this version ("3.9"), or Skip."""
    roots = [os.environ.get("PYENV_ROOT"), Path.home() / ".pyenv"]
    found = [shutil.which(f"python{version}")]
    for root in filter(None, roots):
        found += sorted(glob.glob(f"{root}/versions/{version}.*/bin/python{version}"))
    for path in filter(None, found):
        probe = subprocess.run([path, "-c", "import ssl, venv"], capture_output=True)
        if probe.returncode == 0:
            return path
    raise Skip(f"there is no Python {version}, the only one that it takes")


def run(command, env=None):
    """Runs an installer. When it fails the tool can't be had: there may be no network."""
    words = " ".join(str(word) for word in command)
    try:
        done = subprocess.run(
            [str(word) for word in command], env=env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Skip(f"`{words}` failed: {error}") from error
    if done.returncode != 0:
        last = [line for line in done.stdout.splitlines() if line.strip()][-1:] or ["(no output)"]
        raise Skip(f"`{words}` failed: {last[0].strip()}")
