"""Phrases that a native engineer finds odd, and old names of things, do not come back."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [
    *(ROOT / "src").rglob("*.py"),
    *(ROOT / "src").rglob("*.html"),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile")),
    *(ROOT / "docs" / f"{name}.md" for name in ("method", "glossary", "theory")),
]
PER = "channel|class|layer|group|unit|stage|level|file|batch|consumer|epoch|example|measure|pixel"
PHRASES = [
    r"\banew\b",  # `state_anew` is a key of old journals
    r"\btold\b",
    r"\bshall\b",
    r"\bcame without\b|\b(no|nothing) \S+ came\b|\bcame twice\b",
    r"\bmend(s|ed)?\b",
    r"\bto be had\b",
    r"\bknows? nothing\b|\bheard nothing\b",
    r"\banswers (NaN|with)\b",
    r"\bstands? and falls?\b|\bgo together\b",
    r"\bis no (class|criterion|module|plan|layer)\b",
    r"\bsay (teacher|at_epochs|--set)",
    r"\b(held?|holds?) against\b",
    r"\bgo(es)? by\b|\bgo on by\b",
    r"\btaken? up\b",
    r"\bas things stand\b",
    r"\bname another folder\b",
    rf"\b(parameters?|features?|images?|samples?|one|rows?) an? ({PER})\b",
    r"\b[Ll]edgers?\b|\bpolish(es|ed)?\b",
    r"\bseeds? 00\d|\bscience\.md\b",
]


@pytest.mark.parametrize("phrase", PHRASES)
def test_a_phrase_does_not_come_back(phrase: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in FILES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(phrase, line)
    ]
    assert not found, "\n".join(found)
