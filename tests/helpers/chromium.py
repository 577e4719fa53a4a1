"""Drive a headless Chromium over DevTools' pipe (no web socket, no driver, no Python package): what
the page tests need of it.
"""

import base64
import json
import os
import shutil
import subprocess
import time

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def find_chromium():
    """Path of an installed Chromium or Chrome, or None. FLEXMDM_CHROMIUM names another one."""
    names = [
        os.environ.get("FLEXMDM_CHROMIUM"),
        "chromium",
        "chromium-browser",
        "google-chrome",
        "chrome",
    ]
    return next((path for name in names if name and (path := shutil.which(name))), None)


class Chromium:
    """One browser with one page. `problems` collects console messages, exceptions, log entries;
    `requests` every URL asked for.
    """

    def __init__(self, program, profile):
        read_end, self.to_browser = os.pipe()
        self.from_browser, write_end = os.pipe()
        # the numbers that --remote-debugging-pipe reads from and writes to
        inherit = {3: read_end, 4: write_end}

        def place():
            high = {number: os.dup2(fd, number + 40) for number, fd in inherit.items()}
            for number, fd in high.items():
                os.dup2(fd, number)

        self.process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=place,
            close_fds=False,
        )
        os.close(read_end)
        os.close(write_end)
        self.pending, self.number, self.problems, self.requests, self.loaded = b"", 0, [], [], False
        self.session = None
        target = next(
            t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"
        )
        self.session = self.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _read(self):
        while b"\0" not in self.pending:
            part = os.read(self.from_browser, 1 << 16)
            if not part:
                raise RuntimeError("Chromium ended")
            self.pending += part
        message, self.pending = self.pending.split(b"\0", 1)
        return json.loads(message)

    def _event(self, message):
        method, content = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(content["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(
                content["exceptionDetails"].get("exception", {}).get("description")
                or content["exceptionDetails"]["text"]
            )
        elif method == "Runtime.consoleAPICalled":
            self.problems.append(
                f"console.{content['type']}:"
                f" {[a.get('value', a.get('description')) for a in content['args']]}"
            )
        elif method == "Log.entryAdded":
            self.problems.append(content["entry"]["text"])

    def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to_browser, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._read()
            if reply.get("id") == self.number:
                if "error" in reply:
                    raise RuntimeError(f"{method}: {reply['error']}")
                return reply["result"]
            self._event(reply)

    def run(self, expression):
        """The value of a JavaScript expression in the page."""
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"]["exception"]["description"])
        return result["result"].get("value")

    def wait(self, expression, seconds=20):
        """Until the expression is true in the page."""
        end = time.monotonic() + seconds
        while not self.run(expression):
            if time.monotonic() > end:
                raise TimeoutError(expression)
            time.sleep(0.05)

    def look(self, width, height, scheme="light"):
        """Set the window's size in CSS pixels, and light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def open(self, url):
        self.loaded = False
        self.call("Page.navigate", url=url)
        while not self.loaded:
            self._event(self._read())

    def key(self, key, modifiers=0):
        """Press and release a key; modifiers: 8 is shift."""
        text = {"text": key} if len(key) == 1 else {}
        code = {"code": "Space", "windowsVirtualKeyCode": 32} if key == " " else {}
        self.call(
            "Input.dispatchKeyEvent", type="keyDown", key=key, modifiers=modifiers, **text, **code
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, modifiers=modifiers, **code)

    def screenshot(self, path):
        path.write_bytes(
            base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        )

    def close(self):
        try:
            os.write(
                self.to_browser, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0"
            )
            self.process.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        for fd in (self.to_browser, self.from_browser):
            os.close(fd)
