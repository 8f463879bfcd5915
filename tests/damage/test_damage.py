"""A damaged folder is one sentence, or what is asked for does not need what is damaged.

Every file × every way × every reader: `make damage` tries all (thousands), the suite a part of
them, of each file and each way.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.damage import folders
from tests.damage.judge import ask, copied, judge
from tests.damage.readers import READERS
from tests.damage.ways import TEXT_WAYS, TEXTS, WAYS

#: The one way in which a slow reader is tried on a file that it need not read.
ONE = "random"
#: Of the suite's cases, every so many is tried; a prime, so that all ways and readers have a turn.
EVERY = 53

Case = tuple[str, str, str]


class Corpus:
    """The folders, each made once, and what readers answer while they are whole."""

    def __init__(self, base: Path, *, whole: bool) -> None:
        self.base, self.every = base, 1 if whole else EVERY
        self.folders = {}
        for kind in folders.KINDS if whole else folders.QUICK:
            self.folders[kind] = base / kind
            folders.KINDS[kind](base / kind)
        self.others = base / "others"
        folders.others(self.others)
        self.answers: dict[tuple[str, str], Any] = {}

    def files(self, kind: str) -> list[str]:
        folder = self.folders[kind]
        found = (
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        )
        return sorted(name for name in found if not name.endswith(".html"))

    def copy(self, kind: str) -> tuple[Path, Path]:
        """Return a copy to damage and an empty folder, beside a whole run."""
        place = Path(tempfile.mkdtemp(dir=self.base))
        (place / "out").mkdir()
        (place / "good").symlink_to(self.folders[kind])
        return copied(self.folders[kind], place / "run"), place / "out"

    def right(self, kind: str, name: str) -> Any:
        if (kind, name) not in self.answers:
            run, out = self.copy(kind)
            self.answers[kind, name] = ask(READERS[kind][name], run, out).answer
            shutil.rmtree(run.parent)
        return self.answers[kind, name]

    def other(self, name: str) -> Path | None:
        path = self.others / name
        return path if path.is_file() else None

    def cases(self, kind: str) -> Iterator[tuple[str, str, str]]:
        """Yield file, way and reader."""
        number = 0
        for name in self.files(kind):
            ways = {**WAYS, **TEXT_WAYS} if name.endswith(TEXTS) else WAYS
            for way in ways:
                if way == "of another run" and self.other(name) is None:
                    continue
                for reader, each in READERS[kind].items():
                    if each.slow and not each.reads_file(name) and way != ONE:
                        continue
                    number += 1
                    if number % self.every == 0 and (self.every == 1 or not each.slow):
                        yield name, way, reader

    def wrong(self, kind: str, name: str, way: str, reader: str, came: Counter[str]) -> str:
        """Return what is wrong with a case, or an empty string."""
        right = self.right(kind, reader)
        run, out = self.copy(kind)
        try:
            {**WAYS, **TEXT_WAYS}[way](run, name, self.other(name))
            result, wrong = judge(kind, name, way, READERS[kind][reader], run, out, right)
        finally:
            shutil.rmtree(run.parent)
        came[result] += 1
        return f"{kind} · {name} · {way} · {reader}: {wrong}" if wrong else ""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Corpus:
    return Corpus(tmp_path_factory.mktemp("damage"), whole=request.config.getoption("--whole"))


@pytest.mark.parametrize("kind", folders.KINDS)
def test_every_damage_is_one_sentence_or_does_no_harm(kind: str, corpus: Corpus) -> None:
    if kind not in corpus.folders:
        pytest.skip("only with --whole (make damage)")
    came: Counter[str] = Counter()
    found = [corpus.wrong(kind, *case, came) for case in corpus.cases(kind)]
    faults = [fault for fault in found if fault]
    sys.stdout.write(f"{kind}: {len(found)} cases, {dict(came)}\n")
    assert not faults, f"{len(faults)} of {len(found)}:\n" + "\n".join(faults)


def test_the_whole_folders_are_answered(corpus: Corpus) -> None:
    for kind in corpus.folders:
        for name, reader in READERS[kind].items():
            if reader.slow and corpus.every > 1:
                continue
            right = corpus.right(kind, name)
            refused = {("unfinished", "load"), ("train", "push --resume")}
            assert (right is None) == ((kind, name) in refused), (kind, name)
