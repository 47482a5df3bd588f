"""Headless Chromium over its DevTools pipe."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

# How long anything may take before it counts as hung.
HUNG = 300.0


class Browser:
    def __init__(self, program):
        self.profile = tempfile.mkdtemp(prefix="page-check-")
        commands, self.to_browser = os.pipe()
        self.from_browser, answers = os.pipe()

        def as_3_and_4():
            # Out of the way of the two numbers that the browser reads and writes.
            high = [os.dup2(commands, 103), os.dup2(answers, 104)]
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        arguments = [
            program, "--headless=new", "--remote-debugging-pipe", "--disable-gpu",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-dev-shm-usage", "--disable-sync", "--hide-scrollbars",
            "--force-color-profile=srgb", f"--user-data-dir={self.profile}", "about:blank",
        ]
        if os.geteuid() == 0:
            # The sandbox refuses root, and only a page of ours is loaded.
            arguments.insert(1, "--no-sandbox")
        self.process = subprocess.Popen(
            arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            close_fds=False, preexec_fn=as_3_and_4)
        os.close(commands)
        os.close(answers)
        self.buffer = b""
        self.number = 0
        self.events = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(HUNG)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.profile, ignore_errors=True)

    def send(self, method, session=None, **params):
        """Calls a method and gives its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.to_browser, data):]
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def wait(self, method):
        """Waits for an event."""
        seen = 0
        while True:
            for event in self.events[seen:]:
                if event.get("method") == method:
                    return event
            seen = len(self.events)
            self.events.append(self._next())

    def _next(self):
        late = time.monotonic() + HUNG
        while b"\0" not in self.buffer:
            if not select.select([self.from_browser], [], [], max(0, late - time.monotonic()))[0]:
                raise TimeoutError("the browser says nothing")
            data = os.read(self.from_browser, 1 << 20)
            if not data:
                raise RuntimeError("the browser ended")
            self.buffer += data
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)


class Page:
    """A page that is loaded at a width, in light or dark."""

    def __init__(self, browser, url, width, scheme):
        self.browser = browser
        browser.events.clear()
        target = browser.send("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.send("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ["Page", "Network", "Log", "Runtime"]:
            self.send(f"{domain}.enable")
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=812,
                  deviceScaleFactor=1, mobile=width < 600)
        self.send("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": scheme}])
        browser.events.clear()
        self.send("Page.navigate", url=url)
        browser.wait("Page.loadEventFired")
        # An icon is asked for after that.
        self.evaluate("new Promise(done => setTimeout(done, 300))")

    def send(self, method, **params):
        return self.browser.send(method, self.session, **params)

    def evaluate(self, script):
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True,
                           awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(json.dumps(result["exceptionDetails"]))
        return result["result"].get("value")

    def requests(self):
        """The addresses that were asked for, but for what is in the page itself."""
        sent = [event["params"]["request"]["url"] for event in self.browser.events
                if event.get("method") == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith("data:")]

    def complaints(self):
        """What the browser's console says."""
        methods = ["Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"]
        return [event["params"] for event in self.browser.events
                if event.get("method") in methods]

    def screenshot(self, path):
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        with open(path, "wb") as file:
            file.write(base64.b64decode(shot["data"]))
