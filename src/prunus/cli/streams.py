"""What is printed reaches every terminal and file, whatever it can encode, and also none."""

from __future__ import annotations

import codecs
import io
import os
import sys
import unicodedata

__all__ = ["encode_streams"]

#: Name of the error handler of codecs: what `errors=` of a stream may be.
HANDLER = "prunus.plain"

#: ASCII by another name: click takes a stream in ASCII for a mistake, and writes UTF-8 to it.
ASCII = "prunus_ascii"

#: What stands for a character that cannot be encoded; accents are dropped, Greek letters named.
PLAIN = {
    "≤": "<=",
    "≥": ">=",
    "→": "->",
    "×": "x",
    "·": "*",
    "±": "+/-",
    "–": "-",
    "—": "-",
    "−": "-",
    "⁻": "-",
    "µ": "u",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
    "⁄": "/",  # of ½
    "λ": "lambda",  # Unicode spells it lamda
    "Λ": "Lambda",
    # bars of a table, in eighths of a cell
    "▏": "|",
    "▎": "|",
    "▍": "|",
    "▌": "#",
    "▋": "#",
    "▊": "#",
    "▉": "#",
    "█": "#",
}
_GREEK = ("GREEK SMALL LETTER ", "GREEK CAPITAL LETTER ")


def encode_streams() -> None:
    """Let standard output and error take any text: what they cannot encode is written plainly.

    A stream in ASCII or Latin-1 gets "<=" for "≤", "e" for "é" and "?" for "猫", two for a letter
    two cells wide, so that columns stay aligned. rich draws its boxes and bars by the encoding of
    the stream, in ASCII unless it is UTF-8, and that is left as it is. Bytes of a file name that
    the locale could not decode are written as they came.

    A closed stream is opened on the null device: else the next file that is opened would become
    standard output, and receive what is printed.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    codecs.register_error(HANDLER, _replace)
    codecs.register(_find_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            ascii_only = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding=ASCII if ascii_only else None, errors=HANDLER)


def _find_ascii(name: str) -> codecs.CodecInfo | None:
    known = codecs.lookup("ascii")
    return (
        codecs.CodecInfo(
            name=ASCII,
            encode=known.encode,
            decode=known.decode,
            incrementalencoder=known.incrementalencoder,
            incrementaldecoder=known.incrementaldecoder,
            streamreader=known.streamreader,
            streamwriter=known.streamwriter,
        )
        if name == ASCII
        else None
    )


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return what stands for the first character of `error`, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":  # a byte that was not decoded, see PEP 383
        return character.encode("ascii", "surrogateescape"), error.start + 1
    return _plain(character), error.start + 1


def _plain(character: str) -> str:
    """Return ASCII characters for one that is not."""
    if character in PLAIN:
        return PLAIN[character]
    name = unicodedata.name(character, "")
    for kind in _GREEK:
        if name.startswith(kind) and name.removeprefix(kind).isalpha():
            letter = name.removeprefix(kind)
            return letter.capitalize() if kind == _GREEK[1] else letter.lower()
    parts = unicodedata.normalize("NFKD", character)
    base = "".join(PLAIN.get(part, part) for part in parts if not unicodedata.combining(part))
    if base.isascii():
        return base
    return "??" if unicodedata.east_asian_width(character) in "WF" else "?"
