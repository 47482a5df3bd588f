"""What the person at the terminal sees: a heading for each client, a line for each check."""

import sys
import time


class Failure(Exception):
    """A check didn't hold. The text says what was expected and what came."""


class NotApplicable(Exception):
    """The tool itself doesn't allow what the check is about. The text says why."""


class Report:
    def __init__(self, strict):
        self.strict = strict
        self.clients = self.checks = 0
        self.failures, self.skips = [], []
        self.client_failed = False
        self.started = time.monotonic()
        self.name = ""

    def client(self, name, title):
        self.name, self.client_failed = name, False
        self.clients += 1
        self.say(f"\n{name}: {title}")

    def check(self, title, body):
        """Runs one check; what `body` returns is added to its line. Tells whether it held."""
        self.checks += 1
        started = time.monotonic()
        try:
            said = body()
        except NotApplicable as reason:
            self.checks -= 1
            self.line("n/a", None, f"{title}: {reason}")
            return True
        except (Failure, OSError) as error:
            self.client_failed = True
            self.failures.append(f"{self.name}: {title}")
            self.line("FAILED", time.monotonic() - started, title)
            for line in str(error).splitlines():
                self.say(f"                   {line}")
            return False
        self.line("ok", time.monotonic() - started, f"{title}{': ' + said if said else ''}")
        return True

    def skipped(self, reason):
        self.skips.append(f"{self.name}: {reason}")
        self.say(f"  SKIPPED {self.name}: {reason}")

    def note(self, text):
        self.say(f"  {text}")

    def summary(self):
        """Says how it went. Returns the exit code: how many checks failed, 100 at most."""
        failed = len(self.failures) + (len(self.skips) if self.strict else 0)
        took = time.monotonic() - self.started
        self.say("")
        for failure in self.failures:
            self.say(f"FAILED  {failure}")
        for skip in self.skips:
            self.say(f"SKIPPED {skip}")
        self.say(
            f"{self.clients - len(self.skips)} clients, {self.checks} checks, "
            f"{len(self.failures)} failed, {len(self.skips)} clients skipped, {took:.0f} s"
        )
        return min(failed, 100)

    def line(self, verdict, seconds, text):
        took = f"{seconds:5.1f} s" if seconds is not None else " " * 7
        self.say(f"  {verdict:<6} {took}  {text}")

    @staticmethod
    def say(text):
        print(text, flush=True)
        sys.stdout.flush()
