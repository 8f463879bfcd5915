"""A real browser for tests: Chromium over its debugging pipe, with the network off."""

from __future__ import annotations

import base64
import itertools
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

__all__ = ["Page"]

Row = dict[str, Any]


class Page:
    """A page in a real browser, spoken to over Chromium's debugging pipe, network off."""

    def __init__(self, chromium: str, profile: Path) -> None:
        there, self._write = os.pipe()
        self._read, back = os.pipe()
        command = [
            *("bash", "-c", f'exec "$0" "$@" 3<&{there} 4>&{back}', chromium, "--headless"),
            *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"),
        ]
        self._process = subprocess.Popen(
            command, pass_fds=(there, back), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(there)
        os.close(back)
        self._ids, self._rest = itertools.count(1), b""
        self.events: list[Row] = []
        self._session: str | None = None
        try:
            self._attach()
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def _attach(self) -> None:
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        offline = {"offline": True, "latency": 0}
        offline |= {"downloadThroughput": -1, "uploadThroughput": -1}
        self.send("Network.emulateNetworkConditions", **offline)

    def send(self, method: str, **params: Any) -> Row:
        """Call a method of the DevTools protocol and return its result."""
        number = next(self._ids)
        message: Row = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                chunk = os.read(self._read, 1 << 20)
                assert chunk, "the browser went away"
                self._rest += chunk
            raw, _, self._rest = self._rest.partition(b"\0")
            answer = json.loads(raw)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression on the page."""
        params = {"expression": script, "returnByValue": True, "awaitPromise": True}
        answer = self.send("Runtime.evaluate", **params)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(self, path: Path, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Open a file at a width in pixels and wait until its figures are drawn."""
        self.events.clear()
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.send("Emulation.setDeviceMetricsOverride", mobile=width < 600, **metrics)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.send("Emulation.setEmulatedMedia", features=[feature])
        self.send("Page.navigate", url=path.resolve().as_uri())
        deadline = time.monotonic() + 60
        here = json.dumps(path.resolve().as_uri())
        while not self.run(f"location.href === {here} && document.documentElement?.dataset.ready"):
            assert time.monotonic() < deadline, self.complaints() or "the figures were not drawn"
            time.sleep(0.02)

    def complaints(self) -> list[str]:
        """Return what the console said in anger, and uncaught exceptions."""
        angry = {"Runtime.exceptionThrown"}
        return [
            json.dumps(event["params"])
            for event in self.events
            if event.get("method") in angry
            or (
                event.get("method") == "Log.entryAdded"
                and event["params"]["entry"]["level"] in {"error", "warning"}
            )
            or (
                event.get("method") == "Runtime.consoleAPICalled"
                and event["params"]["type"] in {"error", "warning", "assert"}
            )
        ]

    def requests(self) -> list[str]:
        """Return the addresses the page asked for since it was opened."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]

    def screenshot(self, path: Path, *, whole: bool = False) -> Path:
        """Write a PNG of the window, or of the whole page."""
        params = {"format": "png", "captureBeyondViewport": whole}
        if whole:
            params["clip"] = self.run(
                "({x: 0, y: 0, scale: 1, width: document.documentElement.clientWidth,"
                " height: document.documentElement.scrollHeight})"
            )
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", **params)["data"]))
        return path

    def close(self) -> None:
        """End the browser."""
        self._session = None
        self.send("Browser.close")
        self._process.wait(timeout=10)
        os.close(self._write)
        os.close(self._read)
