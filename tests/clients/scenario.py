"""What every client goes through, and what has to hold."""

from dataclasses import dataclass, field

from report import Failure, NotApplicable


@dataclass
class Build:
    """What a build did, by the tool's own account and by the trace that actions leave."""

    hits: int
    ran: list = field(default_factory=list)
    outputs: dict = field(default_factory=dict)


class Client:
    """A build tool in one configuration."""

    name = title = ""
    # The names that its actions leave in the trace, and how many of them the tool counts as hits.
    actions = ()
    hits = None
    # Outputs that no two runs make alike: the same ones again can only be from the cache.
    stamps = ()
    # The output whose blob is lost, and the actions that have to run again then.
    lost, rerun = None, ()
    # Whether another configuration of the tool goes through the checks of lost and dead servers.
    brief = False
    # Why the tool fails when its cache dies, or isn't there; none if it doesn't.
    dies_with_cache = needs_cache = None

    def install(self, shelf):
        """Gets the tool. Returns what had to be installed."""
        raise NotImplementedError

    def prepare(self, bench):
        """Makes what the server needs, and tells it in `bench.server.options`."""

    def write(self, bench, salt):
        """Writes the workspace; another salt makes every action new."""
        raise NotImplementedError

    def build(self, bench, name, cached=True, meanwhile=None, again=False):
        """Builds all of the workspace; `again` if everything should be in the cache."""
        raise NotImplementedError

    def forget(self, bench, process=True):
        """Throws away all that the tool remembers, and what it built.

        Without `process`, a process that the tool keeps may go on, if it has forgotten results.
        """
        bench.forget()

    def lost_file(self, bench):
        """The path of the output that is lost."""
        raise NotImplementedError

    def half_done(self, bench):
        """Whether a build has run half of its actions."""
        return len(bench.ran()) * 2 >= len(self.actions)

    def leave(self, bench):
        """Ends what the tool left running."""

    @property
    def expected_hits(self):
        return len(self.actions) if self.hits is None else self.hits


def run(client, bench, report):
    """All checks of one client. Stops at the first that leaves nothing to check."""
    first, plain = {}, {}

    def start():
        client.prepare(bench)
        bench.server.start()
        client.write(bench, "first")

    def cold():
        build = rebuild(client, bench, "cold")
        expect_ran(client, build, client.actions, hits=0)
        first.update(build.outputs)
        return f"{count(client.actions, 'action')} ran"

    def warm(name):
        build = rebuild(client, bench, name, again=True)
        expect_ran(client, build, (), hits=client.expected_hits)
        expect_outputs(build.outputs, first)
        return f"{count(range(build.hits), 'hit')}, nothing ran, {count(first, 'output')} the same"

    def restarted():
        bench.server.stop()
        bench.server.start()
        return warm("restarted")

    def lost():
        if not client.lost:
            raise NotApplicable("what it stores has no name that it tells")
        digest = bench.zako("hash", client.lost_file(bench)).split()[0]
        bench.zako("rm", "--server", f"http://{bench.server.grpc}", digest)
        build = rebuild(client, bench, "lost")
        expect_ran(client, build, client.rerun, hits=None)
        expect_outputs(settled(client, build.outputs), settled(client, first))
        return f"{count(client.rerun, 'action')} of {len(client.actions)} ran again"

    def killed():
        if client.dies_with_cache:
            raise NotApplicable(client.dies_with_cache)
        bench.server.ensure()
        client.write(bench, "second")
        kill = KillOnce(client, bench)
        outputs, failure = {}, None
        bench.hold()
        try:
            outputs = rebuild(client, bench, "killed", meanwhile=kill).outputs
        except Failure as error:
            failure = error
        finally:
            bench.release()
        if not kill.done:
            raise failure or Failure("the build ended before the server could be killed")
        if failure:
            raise failure
        expect_outputs(settled(client, outputs), without_cache())
        return "it goes on, with the same outputs as without a cache"

    def recovered():
        bench.server.ensure()
        build = rebuild(client, bench, "recovered")
        expect_outputs(settled(client, build.outputs), without_cache())
        return f"{count(range(build.hits), 'hit')}, the right outputs"

    def full():
        if client.dies_with_cache:
            raise NotApplicable(client.dies_with_cache)
        bench.server.kill()
        bench.server.start("full-store", "--max-size", "1MiB")
        client.write(bench, "second")
        build = rebuild(client, bench, "full")
        expect_ran(client, build, client.actions, hits=0)
        expect_outputs(settled(client, build.outputs), without_cache())

    def without_cache():
        if not plain:
            plain.update(rebuild(client, bench, "without", cached=False).outputs)
        return settled(client, plain)

    def absent():
        bench.server.kill()
        if client.needs_cache:
            raise NotApplicable(client.needs_cache)
        expect_ran(client, rebuild(client, bench, "absent"), client.actions, hits=0)

    if not report.check("a server and a workspace", start):
        return
    if not report.check("a build into an empty cache", cold):
        return
    was_warm = report.check("all forgotten, built again", lambda: warm("warm"))
    if client.brief:
        return
    if was_warm:
        report.check("the same with a restarted server", restarted)
        report.check("a lost blob is made again", lost)
    if report.check("the server is killed in the middle", killed) and not client.dies_with_cache:
        report.check("built with what the killed server left", recovered)
    report.check("built with a store that has no room", full)
    report.check("built without any server", absent)


def rebuild(client, bench, name, **options):
    """Builds with a tool that remembers nothing."""
    client.forget(bench, process=name in ("cold", "warm"))
    if bench.trace.exists():
        bench.trace.unlink()
    return client.build(bench, name, **options)


def count(things, name):
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


class KillOnce:
    """Kills the server as soon as half of a build is done; then the other half may go on."""

    def __init__(self, client, bench):
        self.client, self.bench, self.done = client, bench, False

    def __call__(self):
        if not self.done and self.client.half_done(self.bench):
            self.bench.server.kill()
            self.bench.release()
            self.done = True
        return self.done


def settled(client, outputs):
    """The outputs that every run makes alike."""
    return {name: value for name, value in outputs.items() if name not in client.stamps}


def expect_ran(client, build, actions, hits):
    if build.ran != sorted(actions):
        raise Failure(f"actions that ran: {build.ran or 'none'}; expected: {sorted(actions) or 'none'}")
    if hits is not None and build.hits != hits:
        raise Failure(f"{client.name} counts {build.hits} hits; expected: {hits}")


def expect_outputs(outputs, expected):
    if not expected:
        raise Failure("there are no outputs")
    differing = [n for n in sorted({*outputs, *expected}) if outputs.get(n) != expected.get(n)]
    if differing:
        said = [f"{n}: {outputs.get(n, 'missing')}, expected {expected.get(n, 'none')}" for n in differing]
        raise Failure("outputs differ:\n" + "\n".join(said))
