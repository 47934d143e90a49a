"""A real Chromium without a screen, led by ChromeDriver (W3C WebDriver), without a package."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.redis_server import eventually, free_port

# Nothing is asked of the world; root may start it, and so may a container.
_ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-quic"),
    *("--disable-dev-shm-usage", "--hide-scrollbars"),
)
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """A window of the browser."""

    def __init__(self, port: int, profile: Path) -> None:
        self._port = port
        options = {"args": [*_ARGUMENTS, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{made['sessionId']}"

    def go(self, url: str) -> None:
        """Load a page."""
        self._do("POST", "/url", {"url": url})

    def resize(self, width: int, height: int) -> None:
        """Have a window of this size, in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.tool("Emulation.setDeviceMetricsOverride", size)

    def run(self, script: str) -> Any:
        """Return what a script returns: the tests' own, the pages have none."""
        return self._do("POST", "/execute/sync", {"script": script, "args": []})

    def tool(self, command: str, parameters: dict[str, Any]) -> Any:
        """Return the answer to a command of Chromium's developer tools."""
        asked = {"cmd": command, "params": parameters}
        return self._do("POST", "/goog/cdp/execute", asked)

    def click(self, text: str) -> None:
        """Click on the link or button with this text."""
        found = self._find("xpath", f"//*[self::a or self::button][normalize-space()='{text}']")
        self._do("POST", f"/element/{found}/click", {})

    def write(self, css: str, text: str) -> None:
        """Write into a field."""
        self._do("POST", f"/element/{self._find('css selector', css)}/value", {"text": text})

    @property
    def text(self) -> str:
        """What one reads on the page."""
        return str(self.run("return document.body.innerText"))

    @property
    def url(self) -> str:
        """Where it is."""
        return str(self._do("GET", "/url"))

    def picture(self) -> bytes:
        """Return the whole page as PNG."""
        shot = self.tool("Page.captureScreenshot", {"captureBeyondViewport": True})
        return base64.b64decode(shot["data"])

    def complaints(self) -> list[str]:
        """Return what the browser had to say, of what a page's policy forbids for example."""
        return [one["message"] for one in self._do("POST", "/se/log", {"type": "browser"})]

    def close(self) -> None:
        """Close it."""
        self._do("DELETE", "")

    def _find(self, way: str, what: str) -> str:
        return str(self._do("POST", "/element", {"using": way, "value": what})[_ELEMENT])

    def _do(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._ask(method, self._session + path, body)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body))
            value = json.loads(connection.getresponse().read())["value"]
        assert not (isinstance(value, dict) and "error" in value), value
        return value


@contextlib.contextmanager
def browsing(directory: Path) -> Iterator[Browser]:
    """Give a browser, and end it."""
    driver = shutil.which("chromedriver")
    if driver is None or shutil.which("chromium") is None:
        # As large as all other packages together, so that --apt leaves it out, and CI too in part.
        pytest.skip("not installed: chromium (Debian: chromium, chromium-driver)")
    port = free_port()
    log = directory / "chromedriver.log"
    process = subprocess.Popen([driver, f"--port={port}", f"--log-path={log}"])
    try:
        eventually(lambda: _is_ready(port), "ChromeDriver answers")
        browser = Browser(port, directory / "profile")
        try:
            yield browser
        finally:
            browser.close()
    finally:
        process.terminate()
        process.wait(20)


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/status")
            return bool(json.loads(connection.getresponse().read())["value"]["ready"])
        except OSError:
            return False
