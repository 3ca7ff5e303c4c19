"""A headless Chromium for the tests of pages, driven by chromedriver through WebDriver (W3C), with urllib alone."""

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

WIDE, PHONE = (1280, 800), (390, 844)
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
_LOCAL = ("file:", "data:", "blob:", "about:", "chrome:")
_UNPROXIED = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Browser:
    """One window, at which a test looks as a reader does.

    ``run`` gives the value of JavaScript (``return document.title``), ``messages`` what the console has said since the
    page was opened, and ``requests`` the addresses beyond this page and its own data that it asked for since then.
    """

    def __init__(self, url: str, session: str):
        self._url = f"{url}/session/{session}"
        self.cdp("Network.enable")

    def open(self, page: "Path | str", size: tuple[int, int] = WIDE, dark: bool = False) -> None:
        """Open a file or an address in a window whose contents have ``size``; forget what was said and asked before."""
        self.resize(*size)
        self.dark(dark)
        self._log("browser"), self._log("performance")
        self._opened = page.resolve().as_uri() if isinstance(page, Path) else page
        self._post("url", url=self._opened)

    def run(self, script: str, *arguments):
        """Run the body of a function of JavaScript in the page -> what it returns; a promise is waited for."""
        return self._post("execute/sync", script=script, args=arguments)

    def click(self, css: str) -> None:
        """Click at the one element that a CSS selector finds, as a hand does: what is hidden can't be clicked."""
        found = self._post("elements", using="css selector", value=css)
        assert len(found) == 1, f"{len(found)} elements are {css}"
        self._post(f"element/{next(iter(found[0].values()))}/click")

    def press(self, *keys: str) -> None:
        """Press and release keys, one after another: "a", or a name of ``KEYS``."""
        actions = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self._post("actions", actions=[{"type": "key", "id": "keyboard", "actions": actions}])

    def resize(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.cdp("Emulation.setDeviceMetricsOverride", **metrics)

    def dark(self, wanted: bool) -> None:
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if wanted else "light"}]
        self.cdp("Emulation.setEmulatedMedia", features=scheme)

    def messages(self) -> list[str]:
        return [f"{entry['level']}: {entry['message']}" for entry in self._log("browser")]

    def requests(self) -> list[str]:
        sent = (json.loads(entry["message"])["message"] for entry in self._log("performance"))
        asked = (event["params"]["request"]["url"] for event in sent if event["method"] == "Network.requestWillBeSent")
        return [url for url in asked if not url.startswith(_LOCAL) and url != self._opened]

    def screenshot(self, path: Path, whole_page: bool = True) -> None:
        """Write a PNG."""
        picture = self.cdp("Page.captureScreenshot", captureBeyondViewport=whole_page, **self._clip(whole_page))
        path.write_bytes(base64.b64decode(picture["data"]))

    def print(self, path: Path) -> None:
        """Write the PDF that printing gives."""
        path.write_bytes(base64.b64decode(self.cdp("Page.printToPDF", printBackground=False)["data"]))

    def cdp(self, command: str, **parameters):
        """A command of the Chrome DevTools Protocol."""
        return self._post("goog/cdp/execute", cmd=command, params=parameters)

    def _clip(self, whole_page):
        if not whole_page:
            return {}
        size = self.cdp("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def _log(self, kind):
        return self._post("se/log", type=kind)

    def _post(self, command, **values):
        return _ask(f"{self._url}/{command}", values)


KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Escape": "\ue00c", "End": "\ue010", "Home": "\ue011"}
KEYS |= {"Left": "\ue012", "Up": "\ue013", "Right": "\ue014", "Down": "\ue015", "Space": " "}


@contextmanager
def started():
    """A Browser, until the block ends. The test is skipped, with a reason, where there is no Chromium."""
    chromium, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not (chromium and driver):
        pytest.skip("needs chromium and chromedriver on the PATH")
    with tempfile.TemporaryDirectory(prefix="npgpt-browser-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "HOME": profile},
        )  # fmt: skip
        session = None
        try:
            said = ""
            while not (port := re.search(r"on port ([1-9]\d*)", said)):
                said = process.stdout.readline()
                assert said, "chromedriver has not started"
            url = f"http://127.0.0.1:{port[1]}"
            wanted = {
                "goog:chromeOptions": {"binary": chromium, "args": [*_FLAGS, f"--user-data-dir={profile}/profile"]},
                "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            }
            session = _ask(f"{url}/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
            yield Browser(url, session)
        finally:
            if session:
                with suppress(OSError):
                    _ask(f"{url}/session/{session}", method="DELETE")
            process.terminate()
            process.wait(20)
            process.stdout.close()


def _ask(url, values=None, method="POST"):
    body = None if values is None else json.dumps(values).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method=method)
    try:
        with _UNPROXIED.open(request, timeout=60) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(json.load(error)["value"]["message"]) from None
