"""Citations: every key, equation and path that the checkout names exists, and none is of old."""

import io
import re
import subprocess
import tokenize
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLACES = ("src", "tests", "docs", "configs", "benchmarks", "examples")
FILES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")
SUFFIXES = (".py", ".md", ".yaml", ".toml", ".html", ".css", ".js")
#: Files that show what a citation looks like.
HERE = ("docs/references.md", "tests/test_citations.py")
DOCUMENTS = ("Kung-Hou", "Kung-slides", "Tian", "Dense-xUnit", "Data-feature")

#: What sources were called before they had keys; the brackets keep this from matching itself.
OLD = re.compile(
    r"\b[Ss]eeds?[ ]0\d\d\b|[Ss]eed[ ]\d{3}/|\b00[0-4][ ](?:§|eq\.|section|Table)|[Tt]hesis[ ]00\d"
    r"|science[.]md|\b[Ss]eed[ ]documents?\b|\b[Tt]he[ ]seeds?'s?[ ]|\bof[ ]the[ ]seeds\b"
    r"|\b[Tt]he[ ]seeds?[ ](?:says?|states?|names?|prints?|reports?|leaves?|puts?|warns?|calls?)\b"
)
#: `[Tian, eq. 3.8]`: a key, then the place in the source. No link, no index, no list of code.
CITATION = re.compile(r"(?<![\w\]\[`(*])\[([A-Za-z]\w*(?:-\w+)*)(?:,\s+[^\[\]]+)?\](?![(\w`])")
PLACE = re.compile(
    r",\s+(?:sections?|chapters?|eq\.|Tables?|Figures?|Algorithms?|Appendix|Theorem)"
)
#: A name that looks like a key wherever it stands in brackets, unlike a matrix.
WORD = re.compile(r"[A-Z][A-Za-z0-9]{2,}(?:-[A-Za-z0-9]+)*")
THEORY = re.compile(r"theory\.md`?\s+\((\d+)\)((?:\s*(?:,|to|and)\s+\(\d+\))*)")
KEY = re.compile(r"^- \*\*\[([^\]]+)\]\*\* ", re.MULTILINE)
NUMBERED = re.compile(r"^\*\*\((\d+)\) ", re.MULTILINE)


@cache
def checkout() -> dict[str, str]:
    """Return the text of every file that is kept in the repository, by its path."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PLACES, *FILES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    if not paths:  # unpacked without its repository
        paths = [path for place in PLACES for path in (ROOT / place).rglob("*")]
        paths += [ROOT / name for name in FILES]
    kept = [path for path in paths if path.suffix in SUFFIXES and path.is_file()]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in kept}


def prose(name: str, text: str) -> str:
    """Return what may cite: the whole of a document, the docstrings and comments of a module."""
    if not name.endswith(".py"):
        return text
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return "\n".join(
        token.string
        for token in tokens
        if token.type == tokenize.COMMENT
        or (token.type == tokenize.STRING and '"""' in token.string[:5])
    )


@cache
def keys() -> list[str]:
    return KEY.findall(checkout()["docs/references.md"])


def equations() -> dict[int, str]:
    """Return the text of each equation of the theory, up to the next one or the next section."""
    text = checkout()["docs/theory.md"]
    starts = [*NUMBERED.finditer(text)]
    ends = [match.start() for match in starts[1:]] + [len(text)]
    return {
        int(match[1]): text[match.start() : end].split("\n## ")[0]
        for match, end in zip(starts, ends, strict=True)
    }


def test_no_source_goes_by_an_old_name() -> None:
    found = [
        f"{name}: {match[0]}" for name, text in checkout().items() for match in OLD.finditer(text)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "old", ["Seed~002, eq. 3.8", "seeds~000 and", "the~seed's text", "in the~seeds' code"]
)
def test_old_names_would_be_found(old: str) -> None:
    assert OLD.search(old.replace("~", " "))


def test_a_random_seed_is_no_source() -> None:
    assert not OLD.search("stratified by the seed, the seed splits the others; seed 0 and seed 100")


def test_every_citation_is_a_reference_and_every_reference_is_cited() -> None:
    assert len(keys()) == len(set(keys()))
    cited, unknown = Counter[str](), []
    for name, text in checkout().items():
        if name in HERE:
            continue
        for match in CITATION.finditer(prose(name, text)):
            if match[1] in keys():
                cited[match[1]] += 1
            elif PLACE.search(match[0]) or WORD.fullmatch(match[1]):
                unknown.append(f"{name}: {match[0]}")
    assert not unknown, "\n".join(unknown)
    assert set(DOCUMENTS) <= set(keys())
    assert not [key for key in keys() if not cited[key] and key not in DOCUMENTS]


def test_every_equation_that_is_cited_exists() -> None:
    known, missing = equations(), []
    for name, text in checkout().items():
        if name in HERE:
            continue
        for match in THEORY.finditer(text):
            numbers = [int(match[1]), *map(int, re.findall(r"\((\d+)\)", match[2]))]
            missing += [f"{name}: {match[0]}" for number in numbers if number not in known]
    assert not missing, "\n".join(missing)


def test_equations_are_numbered_without_gaps_and_refer_to_each_other() -> None:
    numbers = [int(number) for number in NUMBERED.findall(checkout()["docs/theory.md"])]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 50


def test_every_equation_has_code_and_an_oracle_that_exist() -> None:
    wrong = []
    for number, text in equations().items():
        for kind, place in (("Code", "src/"), ("Oracle", "tests/")):
            lines = re.findall(rf"^{kind}: (.*?)(?: \\)?$", text, re.MULTILINE)
            paths = re.findall(r"`([^`]+)`", lines[0]) if len(lines) == 1 else []
            if not paths or not all(p.startswith(place) and (ROOT / p).is_file() for p in paths):
                wrong.append(f"({number}) {kind}: {lines}")
    assert not wrong, "\n".join(wrong)
