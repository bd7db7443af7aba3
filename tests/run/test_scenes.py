"""Pictures of several bands, and GeoTIFF: read, explained, shown by band, the map at the scene's own place."""

from __future__ import annotations

import io
import json
import lzma
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from conftest import SAMPLES, Cli
from networks import save
from PIL import Image
from torch import Tensor, nn

from heatcli.images.scenes import read_bands
from heatcli.report.schema import json_schema

tifffile = pytest.importorskip("tifffile")
pytestmark = pytest.mark.usefixtures("default_figure")

BANDS, HIGH, WIDE = 6, 40, 60
BRIGHT = 3  # the band that the network reads, from 0
PLACE = [
    (33550, 12, 3, (10.0, 10.0, 0.0), True),
    (33922, 12, 6, (0.0, 0.0, 0.0, 500_000.0, 4_100_000.0, 0.0), True),
    (34735, 3, 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633), True),
    (34737, 2, 22, "WGS 84 / UTM zone 33N|", True),
]


class Near(nn.Module):
    """Two scores: three times the sum of one band less a fifth of another; and nothing."""

    def __init__(self, bands: int = BANDS) -> None:
        super().__init__()
        self.conv = nn.Conv2d(bands, 2, 1)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.bias.zero_()
            self.conv.weight[0, min(BRIGHT, bands - 1)] = 3
            self.conv.weight[0, 0] = -0.2

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).sum((2, 3))


def scene(name: str, bands: int = BANDS, dtype: type = np.uint16, last: bool = False) -> np.ndarray[Any, Any]:
    """A GeoTIFF [C, H, W], or [H, W, C], whose bright band is bright in one place."""
    values = np.random.default_rng(0).integers(100, 200, (bands, HIGH, WIDE)).astype(dtype)
    values[min(BRIGHT, bands - 1), 10:20, 30:50] = 4000 if dtype is np.uint16 else 250
    tifffile.imwrite(
        name, values.transpose(1, 2, 0) if last else values, photometric="minisblack", compression="zlib",
        planarconfig="contig" if last else "separate", extratags=PLACE, metadata=None,
    )  # fmt: skip
    return values


def reported(cli: Cli, *arguments: object) -> tuple[dict[str, Any], str]:
    ran = cli("explain", *arguments, "--json")
    assert ran.status == 0, ran.err
    report: dict[str, Any] = json.loads(ran.out)
    jsonschema.validate(report, json_schema())
    return report, ran.err


@pytest.mark.parametrize("last", [False, True])
def test_the_band_that_gave_most(tmp_path: Path, cli: Cli, last: bool) -> None:
    """A linear network: each band's relevance is its weight times its sum, whichever way the file is laid out."""
    artifact = save(Near().eval(), tmp_path, "onnx-old", (BANDS, HIGH, WIDE))
    values = scene("scene.tif", last=last) / 10_000
    report, err = reported(
        cli, "scene.tif", "-m", artifact, "--target", "0", "--method", "lrp-0", "--range", "0..10000"
    )
    found = {one["band"]: one["total"] for one in report["pixels"]["bands"]}
    assert list(found)[:2] == [BRIGHT + 1, 1]
    assert found[BRIGHT + 1] == pytest.approx(3 * values[BRIGHT].sum(), rel=1e-5)
    assert found[1] == pytest.approx(-0.2 * values[0].sum(), rel=1e-5)
    assert sum(found.values()) == pytest.approx(report["pixels"]["total"], rel=1e-5)
    assert f"by band: {BRIGHT + 1} +" in err


@pytest.mark.parametrize("size", [(HIGH, WIDE), (20, 20)])
def test_the_map_lies_where_the_scene_does(tmp_path: Path, cli: Cli, size: tuple[int, int]) -> None:
    """In the scene's pixels, with its scale, tie points and projection; the sum stays."""
    artifact = save(Near().eval(), tmp_path, "onnx-old", (BANDS, *size))
    scene("scene.tif")
    report, _ = reported(
        cli, "scene.tif", "-m", artifact, "--target", "0", "--baseline", "zero", "--arrays", "tif", "--out", "out",
    )  # fmt: skip
    with tifffile.TiffFile(Path("out", report["files"]["arrays"])) as file:
        relevance, tags = file.asarray(), file.pages[0].tags
        for code, _, _, value, _ in PLACE:
            known = tags[code].value
            assert known == (value if isinstance(value, tuple) else value.rstrip("\0")) or known.rstrip("|") in value
    assert relevance.shape == (HIGH, WIDE)
    assert relevance.dtype == np.float32
    assert relevance.sum() == pytest.approx(report["pixels"]["total"], rel=0.02)
    inside = relevance[10:20, 30:50]
    assert inside.mean() > 5 * relevance.mean()


def test_a_scene_of_sixteen_bits_in_three_bands_is_no_single_plane(tmp_path: Path, cli: Cli) -> None:
    """Pillow would read the first band alone and show it three times."""
    artifact = save(Near(3).eval(), tmp_path, "onnx-old", (3, HIGH, WIDE))
    values = scene("rgb.tif", 3) / 65535
    report, _ = reported(cli, "rgb.tif", "-m", artifact, "--target", "0", "--method", "lrp-0", "--baseline", "none")
    expected = 3 * values[2].sum() - 0.2 * values[0].sum()
    assert report["target"]["score"] == pytest.approx(expected, rel=1e-3)


def test_three_bands_are_shown_in_colours(tmp_path: Path, cli: Cli) -> None:
    artifact = save(Near().eval(), tmp_path, "onnx-old", (BANDS, HIGH, WIDE))
    scene("scene.tif")
    look = ["--figure", "overlay", "--opacity", "0", "--backdrop", "colour"]
    asked = ["scene.tif", "-m", artifact, "--bands", f"{BRIGHT + 1},1,2", *look]
    report, _ = reported(cli, *asked, "--out", "out")
    assert report["figure"]["bands"] == [BRIGHT + 1, 1, 2]
    with Image.open("out/scene.lrp-eps.png") as shown:
        red, green, _ = np.asarray(shown.convert("RGB")).astype(float).transpose(2, 0, 1)
    assert (red - green)[::4, ::4][10:20, 30:50].mean() > 50  # a small picture is enlarged
    ran = cli("show", "out/scene.lrp-eps.json", "-o", "again.png", *look)
    assert ran.status == 0, ran.err
    with Image.open("out/scene.lrp-eps.png") as first, Image.open("again.png") as again:
        assert np.array_equal(np.asarray(first.convert("RGB")), np.asarray(again.convert("RGB")))


def test_a_plain_picture_becomes_a_tiff_without_a_place(cli: Cli) -> None:
    picture = SAMPLES / "wolf-on-snow.png"
    report, _ = reported(cli, picture, "--arrays", "tif", "--out", "out")
    with tifffile.TiffFile(Path("out", report["files"]["arrays"])) as file:
        assert file.asarray().shape == (report["image"]["height"], report["image"]["width"])
        assert 33550 not in file.pages[0].tags


def test_bad_scenes_are_one_line(tmp_path: Path, cli: Cli) -> None:
    artifact = save(Near().eval(), tmp_path, "onnx-old", (BANDS, HIGH, WIDE))
    scene("four.tif", 4)
    scene("good.tif")
    Path("cut.tif").write_bytes(Path("good.tif").read_bytes()[:700])
    whole = io.BytesIO()
    tifffile.imwrite(whole, np.zeros((6, 4, 4), np.float32) * np.nan, photometric="minisblack", planarconfig="separate")
    Path("nan.tif").write_bytes(whole.getvalue())
    told = {
        "four.tif": "four.tif: has the shape (4, 40, 60); the model takes 6 channels",
        "cut.tif": "cut.tif: ", "nan.tif": "nan.tif: holds values that are not finite numbers",
    }  # fmt: skip
    for name, words in told.items():
        ran = cli("explain", name, "-m", artifact)
        assert (ran.status, ran.err.count("\n")) == (1, 1), ran.err
        assert words in ran.err
    ran = cli("explain", "good.tif", "-m", artifact, "--bands", "9")
    assert "good.tif: has 6 bands, and --bands names band 9" in ran.err
    assert cli("explain", "good.tif", "-m", artifact, "--bands", "1,2").status == 2
    assert cli("explain", "good.tif", "-m", artifact, "--bands", "red").status == 2
    ran = cli("explain", "good.tif", "-m", artifact, "--max-pixels", "2000")
    assert "is too large; at most" in ran.err


CODES = {"zlib": 8, "lzma": 34925, "packbits": 32773}


def packed(codec: str, count: int) -> bytes:
    """So many zeros, compressed."""
    if codec == "packbits":
        return b"\x81\x00" * (count // 128)
    made = zlib.compressobj(9) if codec == "zlib" else lzma.LZMACompressor(preset=9)
    return b"".join([*(made.compress(bytes(1 << 20)) for _ in range(count >> 20)), made.flush()])


def with_strips(codec: str, strip: bytes) -> bytes:
    """A TIFF of six bands of 4×4 pixels, with that strip as each band's."""
    made = io.BytesIO()
    tifffile.imwrite(made, np.ones((BANDS, 4, 4), np.uint16), photometric="minisblack", planarconfig="separate",
                     compression="zlib", metadata=None)  # fmt: skip
    content = bytearray(made.getvalue())
    with tifffile.TiffFile(io.BytesIO(bytes(content))) as file:
        tags = file.pages[0].tags
    counts = len(content)
    content += struct.pack(f"<{BANDS}I", *[len(strip)] * BANDS)
    for code, value in ((273, len(content)), (279, 0)):
        for band in range(BANDS if code == 273 else 0):
            struct.pack_into("<I", content, tags[code].valueoffset + 4 * band, value)
    struct.pack_into("<HHII", content, tags[279].offset, 279, 4, BANDS, counts)
    struct.pack_into("<HHIHH", content, tags[259].offset, 259, 3, 1, CODES[codec], 0)
    return bytes(content + strip)


@pytest.mark.parametrize("codec", CODES)
def test_a_strip_decodes_to_no_more_than_its_part(tmp_path: Path, cli: Cli, codec: str) -> None:
    """A few bytes that stand for gigabytes are refused before they are decoded; an honest strip is read."""
    artifact = save(Near().eval(), tmp_path, "onnx-old", (BANDS, 4, 4))
    Path("good.tif").write_bytes(with_strips(codec, packed("packbits", 128) if codec == "packbits" else whole(codec)))
    assert cli("explain", "good.tif", "-m", artifact).status == 0
    Path("bomb.tif").write_bytes(with_strips(codec, packed(codec, 1 << 28)))
    tracemalloc.start()
    ran = cli("explain", "bomb.tif", "-m", artifact)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (ran.status, ran.err.count("\n")) == (1, 1), ran.err
    assert "bomb.tif: holds a strip or tile that decodes to more than its part of the picture" in ran.err
    assert peak < 1 << 27  # half of what it stands for


def whole(codec: str) -> bytes:
    """One band of 4×4 zeros of 16 bits, compressed."""
    return zlib.compress(bytes(32)) if codec == "zlib" else lzma.compress(bytes(32))


@pytest.mark.parametrize("predictor", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("parts", [{"tile": (16, 32)}, {"rowsperstrip": 7}, {}])
@pytest.mark.parametrize("planes", ["separate", "contig"])
@pytest.mark.parametrize("codec", ["zlib", "lzma"])
def test_a_scene_is_decoded_once(
    codec: str, planes: str, parts: dict[str, Any], order: str, predictor: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the bounded readers alone, whatever its parts, its byte order and its predictor are."""
    values = np.random.default_rng(0).integers(0, 60_000, (BANDS, 40, 50)).astype(np.uint16)
    made, given = io.BytesIO(), values if planes == "separate" else np.moveaxis(values, 0, 2)
    tifffile.imwrite(made, given, photometric="minisblack", planarconfig=planes, compression=codec, metadata=None,
                     predictor=predictor, byteorder=order, **parts)  # fmt: skip

    def twice(*_: object, **__: object) -> bytes:
        raise AssertionError("tifffile decodes it again")

    monkeypatch.setattr(zlib, "decompress", twice)
    monkeypatch.setattr(lzma, "decompress", twice)
    assert np.array_equal(read_bands("a.tif", made.getvalue(), 1 << 20), values)


def test_a_tile_larger_than_any_picture(tmp_path: Path, cli: Cli) -> None:
    artifact = save(Near().eval(), tmp_path, "onnx-old", (BANDS, 4, 4))
    tifffile.imwrite("tile.tif", np.ones((BANDS, 4, 4), np.uint8), photometric="minisblack", planarconfig="separate",
                     compression="zlib", tile=(1024, 1024), metadata=None)  # fmt: skip
    assert cli("explain", "tile.tif", "-m", artifact).status == 0
    ran = cli("explain", "tile.tif", "-m", artifact, "--max-pixels", "100000")
    assert "tile.tif: holds a strip or tile that decodes to more than its part" in ran.err


def test_what_no_reader_bounds_is_refused(tmp_path: Path, cli: Cli) -> None:
    artifact = save(Near().eval(), tmp_path, "onnx-old", (BANDS, 4, 4))
    content = bytearray(with_strips("zlib", whole("zlib")))
    with tifffile.TiffFile(io.BytesIO(bytes(content))) as file:
        struct.pack_into("<H", content, file.pages[0].tags[259].valueoffset, 34712)
    Path("j.tif").write_bytes(content)
    ran = cli("explain", "j.tif", "-m", artifact)
    assert (ran.status, ran.err.count("\n")) == (1, 1)
    assert "j.tif: is compressed as JPEG2000, which is not read here; write it with Deflate" in ran.err
