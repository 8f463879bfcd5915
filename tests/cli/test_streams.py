"""Every verb runs to its end on a terminal that cannot encode what it prints, or on none."""

import ast
import codecs
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from rich.table import Table

import prunus
from prunus.cli.progress import TerminalWatch
from prunus.cli.streams import PLAIN, encode_streams
from tests.cli.command import prunus_

STREAMS = "from prunus.cli.streams import encode_streams"
MAIN = f"import sys; from prunus.cli import main; {STREAMS}; sys.argv[0] = 'prunus'"
ENCODINGS = ["ascii", "latin-1", "cp1252", "cp437", "gbk", "shift_jis", "utf-8"]


class Terminal:
    """Standard output and error in an encoding, and the bytes that arrive there."""

    def __init__(self, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._written = io.BytesIO()
        stream = io.TextIOWrapper(self._written, encoding=encoding, write_through=True)
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        self._encoding = encoding

    def read(self) -> str:
        """Return what arrived, as the terminal would show it."""
        return self._written.getvalue().decode(self._encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_any_text_can_be_written(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a ≤ b → 3×3 … – — % é ᵀ ½ λ Σ ▏█ 猫 Ж \U0001f408"
    terminal = Terminal(encoding, monkeypatch)
    encode_streams()
    sys.stdout.write(f"{text}\n")
    sys.stderr.write(f"{text}\n")
    first, second = terminal.read().splitlines()
    assert first == second
    for written, wanted in zip(first.split(), text.split(), strict=True):
        assert written == wanted or wanted not in written
        assert wanted in "éᵀ猫Ж\U0001f408" or "?" not in written


def test_replacements_in_ascii_and_latin_1(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a ≤ b ≥ 3×3 → x … – — − é ñ ᵀ ½ λ Λ Σ σ 1\xa0000 10⁻⁹ ▏█ “q” Ж 猫"
    ascii_ = "a <= b >= 3x3 -> x ... - - - e n T 1/2 lambda Lambda Sigma sigma 1 000 10-9 |# "
    terminal = Terminal("ascii", monkeypatch)
    encode_streams()
    sys.stdout.write(f"{text}\n")
    assert terminal.read() == f'{ascii_}"q" ? ??\n'
    terminal = Terminal("latin-1", monkeypatch)
    encode_streams()
    sys.stdout.write("é × ½ ≤ 猫\n")
    assert terminal.read() == "é × ½ <= ??\n"


def test_a_file_name_in_another_encoding_is_written_as_it_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = b"runs/m\xfcnchen".decode("utf-8", "surrogateescape")
    for encoding in ("utf-8", "ascii"):
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
        encode_streams()
        sys.stdout.write(f"{name}\n")
        sys.stdout.flush()
        assert written.getvalue() == b"runs/m\xfcnchen\n"


def test_every_character_of_a_sentence_has_a_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """A character new in an error or a table, without a form here, would read as '?'."""
    characters: set[str] = set()
    for path in Path(prunus.__file__).parent.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes if path.name != "streams.py" else ():
            if isinstance(node, ast.Constant) and id(node) not in docstrings:
                characters |= {c for c in str(node.value) if not c.isascii()}
    characters -= {"\u2028", "\u2029", "\ufeff"}  # of the JSON in a page, and of files
    assert len(characters) > 20
    terminal = Terminal("ascii", monkeypatch)
    encode_streams()
    for character in sorted(characters):
        sys.stdout.write(character)
    assert "?" not in terminal.read()
    assert all(form.isascii() for form in PLAIN.values())


def test_boxes_and_bars_are_ascii_where_the_stream_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    for encoding in ("ascii", "latin-1"):
        terminal = Terminal(encoding, monkeypatch)
        encode_streams()
        console = Console(width=60)
        table = Table("layer", "channels → kept")
        table.add_row("猫", "3 → 2")
        console.print(table)
        batches = [1, 2, 3]
        for _ in TerminalWatch(console).batches("statistics: λ ≤ 1")(batches):
            pass
        shown = terminal.read()
        assert "| ??    | 3 -> 2" in shown
        assert "statistics: lambda <= 1" in shown
        assert "----" in shown
        assert shown.isascii()


@pytest.fixture(scope="module")
def cats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images in two classes whose names are neither ASCII nor Latin-1."""
    root = tmp_path_factory.mktemp("data") / "Тест"
    for name, grey in (("猫", 40), ("σ≤1", 200)):
        (root / name).mkdir(parents=True)
        for i in range(12):
            Image.new("L", (8, 8), grey + i).save(root / name / f"{i}.png")
    return root


def test_verbs_run_to_their_end(
    cats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # with bars
    terminal = Terminal("ascii", monkeypatch)
    run = tmp_path / "run"
    network = ("--model", "lenet300", "--data", f"folder:{cats}", "--set", "input_shape=[1,8,8]")
    for verb in (
        ("train", *network, "--epochs", "1", "--device", "cpu", "--out", run),
        ("eval", run),
        ("score", run, "--criterion", "l1", "--out", tmp_path / "score"),
        ("doctor", "lenet300"),
        ("data",),
    ):
        assert prunus_(*verb) == 0, (verb, terminal.read())
    shown = terminal.read()
    assert "??" in shown
    assert "1x28x28" in shown
    cut = ("--budget", "params=20%", "--keep-class", "犬")
    assert prunus_("prune", *network, *cut, "--out", tmp_path / "other") == 2
    assert "'??'" in terminal.read().removeprefix(shown)


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run `code` in a process of its own, in ASCII by the locale."""
    return subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", code, *arguments],
        env={"PYTHONPATH": ":".join(sys.path), "LC_ALL": "C"},
        capture_output=True,
        check=False,
    )


def test_ascii_by_the_locale() -> None:
    """Rich's way of printing, and that of errors: click takes ASCII for a mistake."""
    helped = run_python(f"{MAIN}; main()", "push", "--help")
    assert helped.returncode == 0, helped.stderr
    assert b"N/Sigmav" in helped.stdout
    assert helped.stdout.isascii()
    said = run_python(
        f"{MAIN}; encode_streams(); import typer; typer.echo('a \\u2264 b', err=True)"
    )
    assert said.stderr == b"a <= b\n"


def test_a_closed_stream_is_no_file_of_the_run(tmp_path: Path) -> None:
    record = tmp_path / "record"
    ended = run_python(
        f"import os, sys; os.close(1); sys.stdout = None; {STREAMS}; encode_streams()\n"
        f"file = open({str(record)!r}, 'w'); print(file.fileno(), file=sys.stderr)\n"
        "os.write(1, b'printed by a library'); print('\\u2264')"
    )
    assert int(ended.stderr) > 2
    assert record.read_bytes() == b""


def test_a_reader_that_ends_early_ends_the_command_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen(
        [sys.executable, "-c", f"{MAIN}; main()", "--help"],
        env={"PYTHONPATH": ":".join(sys.path)},
        stdout=writing,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(writing)
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_the_name_for_ascii_is_known_only_as_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    Terminal("ascii", monkeypatch)
    encode_streams()
    assert "é".encode("prunus_ascii", "replace") == b"?"
    with pytest.raises(LookupError):
        codecs.lookup("prunus_other")
