"""Pictures and side files that are not what they should be: sound ones mutated by a seed, and all their readers."""

from __future__ import annotations

import io
import random
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from heatcli.artifact.sidecar import Labels, read_labels, read_sidecar
from heatcli.check.spec import read_spec
from heatcli.errors import HeatcliError
from heatcli.images.dataset import read_mask
from heatcli.images.expected import read_labels as read_expected
from heatcli.images.mean import read_mean
from heatcli.images.overlay import overlay
from heatcli.images.preprocess import Fit, seen_box, to_pixels
from heatcli.images.read import Reader
from heatcli.images.region import region_of
from heatcli.prototype.rbm import read as read_expert
from heatcli.run.work.inputs import find
from heatcli.sequences.read import read_sequences

SMALL = 1 << 22  # pixels at most while fuzzing, so that no case takes long
FITS = (Fit(3, 32, 32), Fit(3, 24, 24, 32), Fit(1, 8, 8, 8, "nearest"), Fit(3, 20, 30, 25, "bicubic"))
ODD = (
    b"",
    b"\0",
    b"%!PS-Adobe-3.0\n(x) run\n",
    b"\xff\xd8\xff\xe0",
    b"\x89PNG\r\n\x1a\n",
    b"II*\0",
    b"PK\3\4",
    b"[" * 3000,
)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes = b"", depth: int = 8, colour: int = 2, more: bytes = b"") -> bytes:
    """A PNG with that header, whatever data it has."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def npy(header: str, data: bytes = b"", version: bytes = b"\1\0") -> bytes:
    """An `.npy` file with that header, whatever data it has."""
    text = header.encode("latin1")
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + data


def shaped(shape: str, kind: str = "<f4", data: bytes = b"") -> bytes:
    """An `.npy` file that declares a shape."""
    return npy(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}", data)


def npz(files: dict[str, bytes]) -> bytes:
    """An archive of `.npy` files by name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def saved(array: object) -> bytes:
    """An array as an `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array), allow_pickle=True)
    return buffer.getvalue()


@cache
def pictures() -> dict[str, bytes]:
    """Sound pictures of every format, and of many modes."""
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (37, 41, 3), dtype=np.uint8))
    grey = colours.convert("L")
    clear = colours.convert("RGBA")
    clear.putalpha(grey)
    deep = Image.fromarray(rng.integers(0, 65536, (37, 41), dtype=np.uint16))
    plans: list[tuple[str, Image.Image, dict[str, object]]] = [
        ("a.png", colours, {}), ("b.png", clear, {}), ("c.png", colours.convert("P"), {"transparency": 3}),
        ("d.png", deep, {}), ("e.png", grey.convert("1"), {}), ("f.png", grey.convert("LA"), {}),
        ("a.jpg", colours, {}), ("b.jpeg", grey, {"progressive": True}), ("c.jpg", colours.convert("CMYK"), {}),
        ("d.jpg", colours, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"}),
        ("a.webp", colours, {"lossless": True}), ("b.webp", clear, {}), ("a.bmp", colours, {}), ("b.bmp", grey, {}),
        ("a.gif", colours, {}), ("b.gif", grey, {"save_all": True, "append_images": [grey, grey]}),
        ("a.ppm", colours, {}), ("a.pgm", grey, {}), ("a.tif", colours, {}),
        ("b.tif", colours, {"compression": "tiff_lzw"}), ("c.tiff", colours, {"compression": "jpeg"}),
        ("d.tif", deep, {}), ("e.tif", grey.convert("F"), {}), ("f.tif", grey, {"compression": "tiff_adobe_deflate"}),
        ("g.tif", grey, {"save_all": True, "append_images": [grey, grey]}), ("h.tif", colours.convert("LAB"), {}),
        ("i.tif", grey.convert("1"), {"compression": "group4"}), ("j.tif", colours.convert("CMYK"), {}),
    ]  # fmt: skip
    found = {}
    for name, image, options in plans:
        buffer = io.BytesIO()
        image.save(buffer, Image.registered_extensions()[Path(name).suffix], **options)
        found[name] = buffer.getvalue()
    array = rng.random((3, 19, 23)).astype(np.float32)
    found["a.npy"], found["b.npy"] = saved(array), saved(rng.integers(0, 256, (19, 23, 3), dtype=np.uint8))
    found["a.npz"] = npz({"x.npy": saved(array), "y.npy": saved(1)})
    return found


@cache
def side_files() -> dict[str, list[bytes]]:
    """Sound files of each kind besides pictures."""
    image = saved(np.zeros((3, 8, 8), np.float32))
    expert = {"weight": np.zeros((12, 4), np.float16), "visible": np.zeros(12, np.float16),
              "hidden": np.zeros(4, np.float16), "shape": np.array([3, 2, 2]), "sigma": np.float32(1),
              "whole": np.bool_(True)}  # fmt: skip
    return {
        "sidecar": [b'[input]\nsize = [32, 32]\nmean = [0.1, 0.2, 0.3]\nstd = 0.5\nresize = "crop:40"\n'
                    b'[labels]\nnames = ["a", "b"]\n[baseline]\nmean = "m.npz"\n'],
        "labels": [b"cat\ndog\r\n\xc3\xa4\n"],
        "spec": [b'methods = ["lrp-eps"]\ntarget = "top"\n[inside-mask]\nleast = 0.5\n[finite]\n'],
        "expected": [b"image,label\na.png,cat\n", b"a.png,cat\n\"b.png\",dog\n"],
        "expected json": [b'{"a.png": "cat", "b.png": 3}'],
        "mean": [npz({"mean.npy": image, "count.npy": saved(3)})],
        "expert": [npz({f"{name}.npy": saved(value) for name, value in expert.items()})],
        "list": [b"a.png\nb.png\r\n", b"a.png\0b\n.png\0"],
        "sequence": [b">one\nACGT\nACGT\n>two\nTTTT\n", saved(np.eye(4, dtype=np.float32))],
        "mask": [pictures()["b.bmp"], pictures()["e.png"]],
        "region": [pictures()["b.bmp"], pictures()["e.png"]],
    }  # fmt: skip


SIDE_NAMES = {
    "sidecar": "model.toml", "labels": "labels.txt", "spec": "spec.toml", "expected": "e.csv",
    "expected json": "e.json", "mean": "mean.npz", "expert": "expert.npz", "list": "list.txt", "sequence": "s.fa",
    "mask": "mask.png", "region": "region.png",
}  # fmt: skip
SIDE_READERS: dict[str, Callable[[Path], object]] = {
    "sidecar": lambda path: read_sidecar(path.with_suffix(".pt"), ""),
    "labels": lambda path: read_labels(path, Labels(file=path.name)),
    "spec": read_spec,
    "expected": read_expected,
    "expected json": read_expected,
    "mean": read_mean,
    "expert": read_expert,
    "list": lambda path: find([path], False, None, None, "out"),
    "sequence": lambda path: read_sequences(path, "ACGT"),
    "mask": lambda path: read_mask(path, (41, 37), FITS[0], SMALL),
    "region": lambda path: region_of(str(path), (41, 37), FITS[0]),
}


def spoil(dice: random.Random, content: bytes, others: list[bytes]) -> bytes:
    """`content` with one to three things wrong: bits, bytes, numbers, a part cut, doubled, zeroed or from another."""
    data = bytearray(content)
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        at = dice.randrange(len(data) + 1) if dice.random() < 0.5 else dice.randrange(min(len(data), 96) + 1)
        length = dice.choice((1, 2, 4, 8, 16, 64, 400))
        kind = dice.randrange(10)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            del data[at : at + length]
        elif kind == 2:
            data[at:at] = data[at : at + length] * dice.choice((1, 1, 50))
        elif kind == 3:
            data[at : at + length] = bytes(len(data[at : at + length]))
        elif kind == 4:
            data[at : at + length] = dice.randbytes(len(data[at : at + length]))
        elif kind == 5:
            value = dice.choice((0, 1, 255, 65535, 2**31 - 1, 2**32 - 1, 200_000))
            data[at : at + 4] = struct.pack(dice.choice("<>") + "I", value)
        elif kind == 6:
            other = dice.choice(others)
            start = dice.randrange(len(other) + 1)
            data[at : at + length] = other[start : start + length]
        elif kind == 7:
            data[at:at] = dice.choice(ODD)
        elif data:
            data[min(at, len(data) - 1)] ^= 1 << dice.randrange(8)
    return bytes(data)


def mend_checksums(content: bytes) -> bytes:
    """A PNG whose chunks have the checksums that they should, so that what is wrong goes further than them."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return content
    data, at = bytearray(content), 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(data):
            break
        data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(data)


def spoiled_pictures(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """So many names and contents: every format truncated, with bits flipped, under another suffix, and so on."""
    dice = random.Random(seed)
    sound = pictures()
    names, contents = list(sound), list(sound.values())
    for i in range(count):
        name = names[i % len(names)]
        content = spoil(dice, sound[name], contents)
        if dice.random() < 0.5:
            content = mend_checksums(content)
        yield (dice.choice(names) if dice.random() < 0.2 else name), content


def use_picture(path: Path, fit: Fit) -> None:
    """All that is done with a picture but for the network: read, made to fit, laid under a heatmap."""
    picture = Reader(fit.channels, max_pixels=SMALL).picture(path)
    pixels = to_pixels(picture.pixels, fit)
    assert pixels.shape == (fit.channels, fit.height, fit.width)
    assert np.isfinite(pixels).all()
    relevance = np.ones((fit.height, fit.width))
    overlay(picture.shown().convert("L"), relevance, seen_box(picture.size, fit), "bwr", 0.9)


def outcome(path: Path, read: Callable[[], object]) -> tuple[bool, str]:
    """Whether it was read, and what is wrong with how it was not: "" for one line that names the file."""
    try:
        read()
    except HeatcliError as error:
        text = str(error)
        wrong = "more than one line" if len(text.splitlines()) != 1 else "" if path.name in text else "no name"
        return False, wrong and f"{wrong}: {text!r}"
    except Exception as error:  # the fault that is looked for
        return False, f"{type(error).__name__}: {str(error)[:200]}"
    return True, ""


def fuzz_pictures(seed: int, count: int) -> Iterator[tuple[str, bytes, bool, str]]:
    """Name, content, whether it was read, and what is wrong with how it was refused, of so many spoiled pictures."""
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, content) in enumerate(spoiled_pictures(seed, count)):
            path = Path(folder, name)
            path.write_bytes(content)
            fit = FITS[i % len(FITS)]
            yield (name, content, *outcome(path, lambda: use_picture(path, fit)))  # noqa: B023  (called at once)


def fuzz_side_files(kind: str, seed: int, count: int) -> Iterator[tuple[str, bytes, bool, str]]:
    """The same of one kind of side file."""
    dice = random.Random(f"{kind} {seed}")
    sound = side_files()[kind]
    others = [content for contents in side_files().values() for content in contents]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, SIDE_NAMES[kind])
        for i in range(count):
            content = spoil(dice, sound[i % len(sound)], others)
            path.write_bytes(content)
            yield (path.name, content, *outcome(path, lambda: SIDE_READERS[kind](path)))
