"""Bad image files: each is refused by `data pack` and listed by `data check`, and nothing is written."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from corpus import Corpus, encoded, folder_of, header, png, png_of
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datamodules.encoded import FORMATS, Limits, decode_image

IDAT = b"IDAT", zlib.compress(bytes(4 * 13))
IEND = b"IEND", b""
JPEG = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)), "JPEG")


def tiff16() -> bytes:
    """An RGB TIFF file of 16 bits per channel."""
    width, height, depth, photometric, start, channels, rows, size = 256, 257, 258, 262, 273, 277, 278, 279
    tags = {width: 4, height: 4, depth: 122, 259: 1, photometric: 2, start: 128, channels: 3, rows: 4, size: 96}
    entries = b"".join(
        struct.pack("<HHII", tag, 4 if tag in (start, size) else 3, 3 if tag == depth else 1, value)
        for tag, value in tags.items()
    )
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)
    return head.ljust(122, b"\0") + struct.pack("<HHH", 16, 16, 16) + bytes(96)


def bmp(width: int, height: int) -> bytes:
    """The headers of a 24-bit BMP file."""
    return b"BM" + struct.pack("<IIIIiiHH", 54, 0, 54, 40, width, height, 1, 24) + bytes(24)


def deep_png(colour: int, channels: int) -> bytes:
    rows = b"".join(b"\0" + bytes(8 * channels) for _ in range(4))
    return png_of(header(4, 4, 16, colour), (b"IDAT", zlib.compress(rows)), IEND)


FILES: dict[str, tuple[str, bytes, str]] = {
    "text": ("a.png", b"this is no image\n", "no readable image"),
    "empty": ("a.png", b"", "no readable image"),
    "html of a failed download": ("a.jpg", b"<!DOCTYPE html><html>404</html>", "no readable image"),
    "git lfs pointer": ("a.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "no readable image"),
    "signature only": ("a.png", b"\x89PNG\r\n\x1a\n", "no readable image"),
    "png without pixels": ("a.png", png_of(header(4, 4), IEND), "no readable image"),
    "png of zero width": ("a.png", png_of(header(0, 4), IDAT, IEND), "no readable image"),
    "png of zero height": ("a.png", png_of(header(4, 0), IDAT, IEND), "no readable image"),
    "png with too few pixels": ("a.png", png_of(header(4, 4), (b"IDAT", zlib.compress(b"\0")), IEND), "no readable"),
    "png of a wrong checksum": ("a.png", png()[:29] + b"\0\0\0\0" + png()[33:], "no readable image"),
    "png with broken zlib data": ("a.png", png_of(header(4, 4), (b"IDAT", b"\x78\x01nothing"), IEND), "no readable"),
    "png with a palette index but no palette": ("a.png", png_of(header(4, 4, 8, 3), IEND), "no readable image"),
    "png of an unknown colour type": ("a.png", png_of(header(4, 4, 8, 5), IDAT, IEND), "no readable image"),
    "png of 3 bits": ("a.png", png_of(header(4, 4, 3, 0), IDAT, IEND), "no readable image"),
    "bomb of 10,000 x 10,000": ("a.png", png_of(header(10_000, 10_000), IDAT, IEND), "100,000,000 pixels"),
    "bomb of 2 billion x 1": ("a.png", png_of(header(2**31 - 1, 1), IDAT, IEND), "2147483647 pixels"),
    "bomb in a text chunk": (
        "a.png",
        png_of(header(4, 4), (b"zTXt", b"k\0\0" + zlib.compress(bytes(2**26))), IDAT, IEND),
        "no readable image",
    ),
    "bomb in a colour profile": (
        "a.png",
        png_of(header(4, 4), *[(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**20 - 9)))] * 70, IDAT, IEND),
        "no readable image",
    ),
    "bmp of 30,000 x 30,000": ("a.bmp", bmp(30_000, 30_000), "900000000 pixels"),
    "ppm of 100,000 x 100,000": ("a.ppm", b"P6 100000 100000 255\n", "10000000000 pixels"),
    "ppm of a negative size": ("a.ppm", b"P6 -4 4 255\n" + bytes(48), "no readable image"),
    "ppm without a size": ("a.ppm", b"P6 ", "no readable image"),
    "ppm of no grey levels": ("a.ppm", b"P6 4 4 0\n" + bytes(48), "no readable image"),
    "gif of zero size": ("a.gif", b"GIF89a" + bytes(7) + b";", "no readable image"),
    "gif without a frame": ("a.gif", b"GIF89a\4\0\4\0\0\0\0;", "no readable image"),
    "16-bit grey": ("a.png", deep_png(0, 1), "8 bits per channel"),
    "16-bit RGB": ("a.png", deep_png(2, 3), "8 bits per channel"),
    "16-bit RGBA": ("a.png", deep_png(6, 4), "8 bits per channel"),
    "16-bit grey with alpha": ("a.png", deep_png(4, 2), "8 bits per channel"),
    "16-bit ppm": ("a.ppm", b"P6 4 4 65535\n" + bytes(96), "8 bits per channel"),
    "16-bit pgm": ("a.pgm", b"P5 4 4 65535\n" + bytes(32), "8 bits per channel"),
    "16-bit tiff": ("a.tif", tiff16(), "8 bits per channel"),
    "floating-point tiff": ("a.tif", encoded(Image.new("F", (4, 4)), "TIFF"), "8 bits per channel"),
    "32-bit tiff": ("a.tif", encoded(Image.new("I", (4, 4)), "TIFF"), "8 bits per channel"),
    "Lab tiff": ("a.tif", encoded(Image.new("LAB", (4, 4)), "TIFF"), "8 bits per channel"),
    "postscript, which Pillow gives to a program": ("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n", ""),
    "svg": ("a.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no readable image"),
    "psd": ("a.png", b"8BPS\0\1" + bytes(20), "no readable image"),
    "jpeg cut off in its header": ("a.jpg", JPEG[:100], "no readable image"),
    "jpeg cut off in its pixels": ("a.jpg", JPEG[: len(JPEG) * 3 // 4], "no readable image"),
    "jpeg of zero size": ("a.jpg", JPEG.replace(b"\x11\x08\0\x10\0\x10", b"\x11\x08\0\0\0\0"), "no readable image"),
    "webp cut off": ("a.webp", encoded(Image.new("RGB", (4, 4)), "WEBP")[:-12], "no readable image"),
    "more bytes than allowed": ("a.png", bytes(2**26 + 1), "limits.file_bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_bad_files(case: str, corpus: Corpus) -> None:
    name, data, says = FILES[case]
    corpus.refused_data(folder_of(corpus.folder / "data", **{name: data}), says)


def linked(folder: Path, target: str) -> Path:
    (folder / "a.png").symlink_to(target)
    return folder


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a.png")
    return folder


def table(folder: Path, text: str) -> Path:
    (folder / "dataset.json").write_text(text)
    return folder


PLACES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a pipe, reading which never ends": (pipe, "a.png is no regular file"),
    "a link to a device that never ends": (lambda f: linked(f, "/dev/zero"), "a.png is no regular file"),
    "a link to nothing": (lambda f: linked(f, "nowhere"), "a.png cannot be read (No such file"),
    "a link to itself": (lambda f: linked(f, "a.png"), "a.png cannot be read (Too many levels"),
    "a terminal's commands in a name": (lambda f: folder_of(f, **{"a\x1b[2J.png": png()}), "cannot be shown"),
    "a line break in a name": (lambda f: folder_of(f, **{"a\nb.png": png()}), "cannot be shown"),
    "a name that is not UTF-8": (lambda f: folder_of(f, **{os.fsdecode(b"a\xff.png"): png()}), "cannot be shown"),
    "labels that are no JSON": (lambda f: table(f, "{"), "not of the form"),
    "labels without the image": (lambda f: table(f, '{"labels": []}'), "no label for good.png"),
    "a negative label": (lambda f: table(f, '{"labels": [["good.png", -1]]}'), "label of good.png is -1"),
    "a huge label": (lambda f: table(f, '{"labels": [["good.png", 1e400]]}'), "label of good.png is inf"),
    "a label beyond 64 bits": (lambda f: table(f, f'{{"labels": [["good.png", {10**30}]]}}'), "label of good.png is 1"),
    "a label of 5,000 digits": (lambda f: table(f, f'{{"labels": [["good.png", {"9" * 5000}]]}}'), "not of the form"),
    "a name that is a list": (lambda f: table(f, '{"labels": [[["good.png"], 0]]}'), "not of the form"),
    "labels that are no UTF-8": (lambda f: folder_of(f, **{"dataset.json": b"\xff\xfe\xff"}), "not of the form"),
}


@pytest.mark.parametrize("case", PLACES)
def test_bad_folders(case: str, corpus: Corpus) -> None:
    make, says = PLACES[case]
    corpus.refused_data(make(folder_of(corpus.folder / "data")), says)


def test_an_unreadable_folder_is_not_passed_over(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """os.walk leaves out without a word what it may not list, a class for instance."""
    data = folder_of(corpus.folder / "data")
    folder_of(data / "cat")
    listed = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("cat"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    corpus.refused("data", "check", data, code=1, says="1 file cannot be used")
    monkeypatch.undo()


def test_grey_with_colours_and_cmyk_are_taken(corpus: Corpus) -> None:
    """They have 8 bits per channel; `check` names their modes."""
    from main import main

    modes = {"RGB": "PNG", "L": "PNG", "P": "GIF", "1": "PNG", "LA": "PNG", "RGBA": "PNG", "CMYK": "JPEG"}
    files = {f"{mode}.{form.lower()}": encoded(Image.new(mode, (4, 4)), form) for mode, form in modes.items()}
    assert main(["data", "check", str(folder_of(corpus.folder / "data", **files))]) == 0
    out = corpus.capfd.readouterr().out
    assert all(f"{mode}: " in out for mode in modes)


SEEDS = {
    form: encoded(Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 9, 3), dtype=np.uint8)), form)
    for form in FORMATS
}


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_damaged_files_never_give_another_error(form: str, data: st.DataObject) -> None:
    """Cut off and with bytes changed, a file is decoded or refused; libraries' own errors do not come through."""
    content = bytearray(SEEDS[form][: data.draw(st.integers(0, len(SEEDS[form])))])
    for _ in range(data.draw(st.integers(0, 8))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert decode_image(bytes(content), "a", 4, 3, Limits()).shape == (3, 4, 4)
    except ValueError as error:
        assert str(error).startswith("a: ")
