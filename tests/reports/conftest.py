"""A journal as a run writes it, made up but consistent, and a browser to look at the page."""

from __future__ import annotations

import base64
import itertools
import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Row = dict[str, Any]
NETWORKS = {  # name: (units, consumer, kind, parameters a unit, MACs a unit)
    "conv1": (20, "conv2", "channels", 26, 14976),
    "conv2": (50, "fc1", "channels", 501, 32064),
    "fc1": (500, "fc2", "neurons", 811, 810),
}
CONFIG = {
    "version": 1,
    "model": "lenet5",
    "data": "digits",
    "budget": "params=10%",
    "criterion": "di",
    "iterations": 4,
    "seed": 0,
}


def make_journal(seed: int = 0, iterations: int = 4, groups: int = 0) -> list[Row]:
    """Return the rows of a finished run; `groups` > 0 replaces LeNet-5's by as many channels."""
    draw = random.Random(seed)
    units = (
        {f"layer{at // 6 + 1}.{at % 6}.conv1": (64, f"layer{at}") for at in range(groups)}
        if groups
        else {name: (value[0], value[1]) for name, value in NETWORKS.items()}
    )
    rows: list[Row] = [
        {
            "event": "run",
            "command": "prunus prune --model lenet5 --data digits --budget params=10% --out runs/a",
            "prunus": "0.1.0",
            "torch": "2.15.0",
            "python": "3.11.7",
            "device": "CPU: AMD EPYC, 2 threads",
            "seed": seed,
            "started": "2026-11-21T02:30:00Z",
        },
        {
            "event": "graph",
            "groups": [
                {"name": name, "kind": "channels", "units": count, "consumers": [reader]}
                for name, (count, reader) in units.items()
            ],
            "unprunable": [{"module": "fc2", "reason": "its outputs are the network's outputs"}],
        },
        _fit(draw, "dense", None, 8, (0.30, 0.9861)),
        {"event": "iteration", "iteration": 0, "params": 431080, "macs": 2293000}
        | {"validation_accuracy": 0.9861},
    ]
    left = {name: count for name, (count, _) in units.items()}
    accuracy, params, macs = 0.9861, 431080, 2293000
    for at in range(1, iterations + 1):
        before = dict(left)
        left = {
            name: max(2, round(count * draw.uniform(0.5, 0.75))) for name, count in left.items()
        }
        done = at == iterations
        params = 42913 if done else round(params * 0.55)
        macs = 559268 if done else round(macs * 0.7)
        cut = accuracy - draw.uniform(0.01, 0.03) * at
        rows.append(
            {
                "event": "prune",
                "iteration": at,
                "target": f"params ≤ {10 if done else round(100 * 0.55**at)}%",
                "params": params,
                "macs": macs,
                "validation_before": accuracy,
                "validation_cut": cut,
                "groups": [
                    {
                        "name": name,
                        "units": count,
                        "before": before[name],
                        "after": left[name],
                        "histogram": _histogram(draw, before[name], left[name]),
                        "score_unit": "share of the consumer's output energy",
                    }
                    for name, (count, _) in units.items()
                ],
                "compensated": ["conv2", "fc1"],
                "not_compensated": [{"module": "fc2", "reason": "its Gram matrix is singular"}],
            }
        )
        rows.append(_fit(draw, "iteration", at, 4, (cut, 0.9861 - 0.002 * at)))
        accuracy = rows[-1]["epochs"][-1]["validation_accuracy"]
        rows.append({"event": "iteration", "iteration": at, "params": params, "macs": macs})
        rows[-1]["validation_accuracy"] = accuracy
    rows.append({"event": "stop", "reason": "the budget is met"})
    rows.append(_fit(draw, "final", None, 6, (accuracy, 0.9833)))
    dense = {
        "test_accuracy": 355 / 360,
        "validation_accuracy": 0.9861,
        "params": 431080,
        "macs": 2293000,
        "bytes": 1724320,
        "latency": {
            "1": {"median": 0.00123, "low": 0.0011, "high": 0.0014},
            "64": {"median": 0.01284, "low": 0.0121, "high": 0.0139},
        },
    }
    pruned = {
        "test_accuracy": 354 / 360,
        "validation_accuracy": 0.9833,
        "params": 42913,
        "macs": 559268,
        "bytes": 171652,
        "latency": {
            "1": {"median": 0.00068, "low": 0.00064, "high": 0.00075},
            "64": {"median": 0.00558, "low": 0.0054, "high": 0.0061},
        },
    }
    rows.append({"event": "result", "dense": dense, "pruned": pruned, "test_images": 360})
    rows[-1]["latency_ratio"] = {"1": 1.8, "64": 2.3}
    layers = [
        ("conv1", "Conv2d", [520, 130], [299520, 74880], [20, 5], [1, 1]),
        ("conv2", "Conv2d", [25050, 1260], [1600000, 80000], [50, 10], [20, 5]),
        ("fc1", "Linear", [400500, 40473], [392570, 40000], [500, 60], [800, 160]),
        ("fc2", "Linear", [5010, 610], [5000, 600], [10, 10], [500, 60]),
    ]
    if groups:
        layers = [
            (name, "Conv2d", [36928, 9232], [600000, 150000], [count, left[name]], [64, 64])
            for name, (count, _) in units.items()
        ]
    keys = ("module", "kind", "params", "macs", "out", "in")
    rows.append(
        {"event": "layers", "layers": [dict(zip(keys, layer, strict=True)) for layer in layers]}
    )
    rows.append({"event": "export", "onnx": "model.onnx", "largest_difference": 3e-7})
    rows[-1] |= {"tolerance": 1e-4, "images": 64}
    return rows


def _fit(
    draw: random.Random, phase: str, at: int | None, epochs: int, ends: tuple[float, float]
) -> Row:
    low, high = ends
    curve = [high - (high - low) * 0.4 ** (epoch + 1) for epoch in range(epochs - 1)] + [high]
    return {
        "event": "fit",
        "phase": phase,
        "iteration": at,
        "epochs": [
            {
                "epoch": epoch + 1,
                "loss": 3 * (1.002 - accuracy) * draw.uniform(0.9, 1.1),
                "train_accuracy": min(1.0, accuracy + 0.008),
                "validation_accuracy": accuracy,
                "lr": 0.1 / (epoch + 1),
                "seconds": 1.25,
            }
            for epoch, accuracy in enumerate(curve)
        ],
    }


def _histogram(draw: random.Random, before: int, after: int) -> Row:
    scores = sorted(draw.lognormvariate(-4, 1.0) for _ in range(before))
    bins = 20
    edges = [scores[-1] * at / bins for at in range(bins + 1)]
    counts = {"kept": [0] * bins, "removed": [0] * bins}
    for rank, score in enumerate(scores):
        side = "removed" if rank < before - after else "kept"
        counts[side][min(bins - 1, int(score / edges[-1] * bins))] += 1
    return {"edges": edges, **counts}


def write_run(folder: Path, rows: list[Row], config: Row | None = None) -> Path:
    """Write a run folder: config.yaml, record.jsonl, plan.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(json.dumps(config or CONFIG))  # JSON is YAML
    (folder / "record.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "plan.json").write_text('{"version": 1, "edits": []}')
    return folder


@pytest.fixture
def journal() -> list[Row]:
    return make_journal()


@pytest.fixture
def many_groups() -> list[Row]:
    return make_journal(groups=60)


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
        deadline = time.monotonic() + 20
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


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on this machine: the page cannot be looked at")
    page = Page(chromium, tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[Row]], Path]:
    """Return a function that writes rows as a run folder."""
    return lambda rows: write_run(tmp_path_factory.mktemp("run"), rows)


@pytest.fixture
def config() -> Row:
    return dict(CONFIG)
