"""Looks at the status page in a browser. Usage: main.py ZAKO BROWSER FOLDER"""

import pathlib
import shutil
import sys
import tempfile

from browser import Browser, Page
from server import Server, damage, traffic

LOOKS = (pathlib.Path(__file__).parent / "looks.js").read_text()

# Name, width, scheme.
VIEWS = [
    ("desktop-light", 1200, "light"),
    ("desktop-dark", 1200, "dark"),
    ("phone-light", 375, "light"),
    ("phone-dark", 375, "dark"),
    ("narrow", 320, "light"),
]

# Longer than a few spans of the charts.
SECONDS = 16


def check(what, is_so, more=""):
    if not is_so:
        sys.exit(f"page-check: {what} {more}")
    print(f"ok: {what}")


def look(browser, server, name, width, scheme, folder):
    page = Page(browser, server.admin + "/", width, scheme)
    page.screenshot(folder / f"{name}.png")
    looks = page.evaluate(LOOKS)
    requests, complaints = page.requests(), page.complaints()
    check(f"{name}: it asks for nothing but itself", requests == [server.admin + "/"], requests)
    check(f"{name}: the browser has no complaint", not complaints, complaints)
    check(f"{name}: no script", looks["scripts"] == 0)
    check(f"{name}: its style is let in", looks["styled"])
    check(f"{name}: nothing is wider than the page", looks["overflow"] <= 0, looks["overflow"])
    if width >= 375:
        check(f"{name}: no table scrolls", not looks["wide"], looks["wide"])
    check(f"{name}: it is {scheme}", looks["dark"] == (scheme == "dark"))
    check(f"{name}: all text can be read", not looks["pale"], looks["pale"])
    check(f"{name}: everything has a name", not looks["nameless"], looks["nameless"])
    return looks


def figures(server, looks):
    """What the page tells is what happened."""
    status, text = server.status(), looks["text"].replace("\u202f", " ")
    check("it is ready", status["state"] == "ready" and "ready" in text)
    stored = f"{status['store']['blobs']:,}".replace(",", " ")
    check("the number of blobs", status["store"]["blobs"] > 300 and stored in text, stored)
    check("the disk's share", "used" in text and "256 MiB" in text, text)
    check("the caller", "127.0.0.1" in text)
    used = {row["name"]: row["calls"] for row in status["activity"]["interfaces"]}
    check("calls by interface", used["zako"] > 0 and used["http"] > 80, used)
    check("interfaces have names", "HTTP cache" in text and "Zako, by gRPC" in text)
    check("lines of calls and traffic", all(length > 30 for length in looks["lines"][:3]),
          looks["lines"])
    check("the damaged blob", status["store"]["quarantined_blobs"] == 1, status["store"])
    check("refused calls", status["activity"]["failures"], status["activity"]["failures"])
    check("a warning of the log", status["events"], status["events"])


def main(zako, browser_program, folder):
    with tempfile.TemporaryDirectory(prefix="page-check-") as work:
        work = pathlib.Path(work)
        shots = work / "shots"
        shots.mkdir()
        try:
            look_around(zako, browser_program, work, shots)
        finally:
            # All at once: another run may look into the same folder.
            shutil.copytree(shots, folder, dirs_exist_ok=True)
    print(f"page-check: all is well; look at {folder}")


def look_around(zako, browser_program, work, shots):
    with Server(zako, work) as server, Browser(browser_program) as browser:
        page = Page(browser, server.admin + "/", 1200, "light")
        check("an idle server has a page", "Nobody has called" in page.evaluate(LOOKS)["text"])
        page.screenshot(shots / "idle.png")
        damage(server, work, traffic(server, work, SECONDS))
        views = [look(browser, server, *view, shots) for view in VIEWS]
        figures(server, views[0])
        refreshed = Page(browser, server.admin + "/?refresh=5", 1200, "light")
        meta = "document.querySelector('meta[http-equiv=refresh]').content"
        check("it loads itself anew if asked to", refreshed.evaluate(meta) == "5")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]).resolve())
