"""Images of 16 bits have the values of their 8-bit copies, and large ones are bounded."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prunus.core.errors import ConfigError, DataError
from prunus.data import load_data
from prunus.data.files import Files, ImageFiles, decode
from prunus.data.files.decode import UnreadableImageError, is_grey, read_image, verify_images

#: 16-bit values and the 8-bit ones that they are: v·255/65 535, rounded.
WIDE = np.array([[0, 128, 129, 257], [385, 386, 32_768, 40_000], [65_406, 65_407, 65_534, 65_535]])
NARROW = np.array([[0, 0, 1, 1], [1, 2, 128, 156], [254, 255, 255, 255]])


def chunk(kind: bytes, content: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + crc


def png(width: int, height: int, colour: int, bits: int, rows: bytes) -> bytes:
    """Return a PNG; `rows` are its scanlines, each after the byte of its filter."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def wide_files(folder: Path) -> dict[str, Path]:
    """Write WIDE in every format of 16-bit grey that Pillow opens."""
    big = WIDE.astype(">u2")
    files = {name: folder / name for name in ("a.png", "le.tif", "be.tif", "raw.pgm", "plain.pgm")}
    rows = b"".join(b"\0" + row.tobytes() for row in big)
    files["a.png"].write_bytes(png(4, 3, 0, 16, rows))
    Image.fromarray(WIDE.astype("<u2")).save(files["le.tif"])
    Image.frombytes("I;16B", (4, 3), big.tobytes()).save(files["be.tif"])
    files["raw.pgm"].write_bytes(b"P5 4 3 65535\n" + big.tobytes())
    files["plain.pgm"].write_text("P2 4 3 65535\n" + " ".join(map(str, WIDE.flat)) + "\n", "ascii")
    return files


def test_16_bit_grey_is_scaled(tmp_path: Path) -> None:
    assert np.array_equal(np.rint(WIDE / 257), NARROW)
    modes = set()
    for name, path in wide_files(tmp_path).items():
        with Image.open(path) as image:
            modes.add(image.mode)
        grey = read_image(path, 1)
        assert grey.mode == "L"
        assert np.array_equal(np.asarray(grey), NARROW), name
        colour = read_image(path, 3)
        assert colour.mode == "RGB"
        assert np.array_equal(np.asarray(colour), np.stack([NARROW] * 3, 2)), name
        assert is_grey(path)
    assert modes == {"I", "I;16", "I;16B"}


def test_a_picture_is_the_same_with_8_and_16_bits(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(">u2") * 257)
    (tmp_path / "wide.png").write_bytes(png(7, 9, 2, 16, rows))
    assert np.array_equal(np.asarray(read_image(tmp_path / "wide.png", 3)), pixels)
    grey = pixels[:, :, 0]
    rows = b"".join(b"\0" + row.tobytes() for row in grey.astype(">u2") * 257)
    for kind in ("wide", "narrow"):
        for name in ("a", "b"):
            (tmp_path / kind / name).mkdir(parents=True)
            for i in range(4):
                path = tmp_path / kind / name / f"{i}.png"
                Image.fromarray(grey).save(path)
                if kind == "wide":
                    path.write_bytes(png(7, 9, 0, 16, rows))
    wide, narrow = (
        load_data(f"folder:{tmp_path / kind}", input_shape=(1, 8, 8)).test.dataset[0][0]
        for kind in ("wide", "narrow")
    )
    assert torch.equal(wide, narrow)
    wide, narrow = (
        load_data(f"sr:2:{tmp_path / kind / 'a'}", input_shape=(1, 2, 2)).test.dataset[0][1]
        for kind in ("wide", "narrow")
    )
    assert torch.equal(wide, narrow)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_values_without_a_known_white_are_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tif"
    Image.new(mode, (4, 4)).save(path)
    with pytest.raises(UnreadableImageError, match=f"a.tif cannot be read .* mode {mode} have no"):
        read_image(path, 3)


def test_more_pixels_than_the_limit_are_refused_by_the_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png(65_000, 65_000, 2, 8, b""))  # were it decoded, an error of its data
    message = (
        r"image .*bomb.png has 65000×65000 pixels, more than the limit of 89 478 485 .*"
        r"PRUNUS_MAX_PIXELS=4225000000$"
    )
    with pytest.raises(UnreadableImageError, match=message):
        read_image(bomb, 3, 32)
    with pytest.raises(UnreadableImageError, match=message):
        verify_images((bomb,), 32)
    Image.new("L", (10, 10)).save(tmp_path / "a.png")
    monkeypatch.setenv("PRUNUS_MAX_PIXELS", "100")
    assert read_image(tmp_path / "a.png", 1).size == (10, 10)
    monkeypatch.setenv("PRUNUS_MAX_PIXELS", "99")
    with pytest.raises(DataError, match=r"10×10 pixels, more than the limit of 99 "):
        is_grey(tmp_path / "a.png")
    for wrong in ("0", "-5", "1e9", "²"):
        monkeypatch.setenv("PRUNUS_MAX_PIXELS", wrong)
        with pytest.raises(ConfigError, match=r"PRUNUS_MAX_PIXELS is .*expected a whole number"):
            read_image(tmp_path / "a.png", 1)


def test_pillows_own_limit_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    Image.new("L", (10, 10)).save(tmp_path / "a.png")
    read_image(tmp_path / "a.png", 1)
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImageError, match="cannot identify"):
        read_image(tmp_path / "b.png", 1)
    assert Image.MAX_IMAGE_PIXELS == 7


def gradient(width: int, height: int) -> Image.Image:
    x, y = np.linspace(0, 255, width), np.linspace(0, 255, height)
    one = np.add.outer(y, x) / 2
    return Image.fromarray(np.stack([one, 255 - one, one], 2).astype(np.uint8))


def test_only_jpegs_far_larger_than_needed_are_decoded_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sides stay 8 times as long as needed, and what is below 2²⁵ pixels is as it was."""
    assert decode.LARGE == 2**25
    path = tmp_path / "a.jpg"
    gradient(800, 640).save(path, quality=95)
    with Image.open(path) as image:
        whole = image.convert("RGB")
    assert read_image(path, 3, 8) == whole
    files = Files((path,), torch.tensor([0]))
    before = ImageFiles(files, (3, 8, 8), augment=False)[0][0]
    monkeypatch.setattr(decode, "LARGE", 800 * 640 - 1)
    assert read_image(path, 3) == whole
    sizes = {side: read_image(path, 3, side).size for side in (8, 10, 20, 40, 41, 80)}
    assert sizes[8] == sizes[10] == (100, 80)  # 1/8: 80 = 8 · 10
    assert sizes[20] == (200, 160)
    assert sizes[40] == (400, 320)
    assert sizes[41] == sizes[80] == (800, 640)
    after = ImageFiles(files, (3, 8, 8), augment=False)[0][0]
    torch.testing.assert_close(after, before, rtol=0, atol=2 / 255 / 0.224)
    monkeypatch.setenv("PRUNUS_MAX_PIXELS", f"{800 * 640 // 2}")  # twice as many where reduced
    assert read_image(path, 3, 20).size == (200, 160)
    with pytest.raises(UnreadableImageError, match="800×640 pixels, more than the limit"):
        read_image(path, 3, 80)
    file = io.BytesIO()
    gradient(800, 640).save(file, "PNG")
    path.with_suffix(".png").write_bytes(file.getvalue())
    with pytest.raises(UnreadableImageError, match="800×640 pixels, more than the limit"):
        read_image(path.with_suffix(".png"), 3, 20)
