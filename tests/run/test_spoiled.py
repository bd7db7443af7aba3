"""Bad pictures and side files: each is its own failure, in one line, at no more than its price."""

from __future__ import annotations

import io
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MODELS, SAMPLES, Cli
from folders import rows
from numpy.typing import NDArray
from PIL import Image
from spoiled import FITS, SIDE_READERS, fuzz_pictures, fuzz_side_files, npz, pictures, png, saved, shaped

from heatcli.errors import ImageError, ModelError, boundary, one_line
from heatcli.images import overlay as overlays
from heatcli.images import preprocess, read
from heatcli.images.preprocess import Fit, to_pixels
from heatcli.images.read import FORMATS, Reader, as_mode
from heatcli.run.work.request import Job
from heatcli.run.work.shipping import packed, unpacked
from heatcli.system import compress
from heatcli.system.compress import read_array
from heatcli.system.files import read_regular

WOLF = SAMPLES / "wolf-on-snow.png"

# Pillow's warnings are ignored unless the user says otherwise; here all warnings are errors
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")


def test_spoiled_pictures() -> None:
    """Of all formats; a long run is `tests/measure/reliability/pictures.py`."""
    found = list(fuzz_pictures(0, 600))
    assert [wrong for _, _, _, wrong in found if wrong] == []
    read = sum(fine for _, _, fine, _ in found)
    assert 100 < read < 500  # neither so damaged that nothing is read nor so little that nothing is noticed


@pytest.mark.parametrize("kind", SIDE_READERS)
def test_spoiled_side_files(kind: str) -> None:
    found = list(fuzz_side_files(kind, 0, 60))
    assert [wrong for _, _, _, wrong in found if wrong] == []
    assert any(not fine for _, _, fine, _ in found)


@pytest.mark.slow
def test_spoiled_for_long() -> None:
    assert [wrong for _, _, _, wrong in fuzz_pictures(1, 30_000) if wrong] == []
    for kind in SIDE_READERS:
        assert [wrong for _, _, _, wrong in fuzz_side_files(kind, 1, 3_000) if wrong] == []


def test_a_boundary_holds_any_exception() -> None:
    for error, why in (
        (MemoryError(), "there is not enough memory"), (RecursionError("x"), "it is nested too deeply"),
        (SystemError("odd\nthing"), "odd"), (OSError(5, "no disk"), "no disk"),
    ):  # fmt: skip
        with pytest.raises(ImageError, match=rf"^a\.png: cannot be read: {why}$"), boundary("a.png", ImageError):
            raise error
    with pytest.raises(ModelError, match=r"^mine$"), boundary("a.png", ImageError):
        raise ModelError("mine")
    with pytest.raises(KeyboardInterrupt), boundary("a.png", ImageError):
        raise KeyboardInterrupt


def test_an_error_is_one_line() -> None:
    assert str(ImageError("a\nb\x1b[2J\udcff ü×: no")) == "a\\nb\\x1b[2J\\xff ü×: no"
    assert one_line("a ü") == "a ü"
    assert len(str(ImageError("x" * 100_000 + ": no"))) < 4100


# one bad picture between two good ones


def _taken(path: Path) -> None:
    shutil.copy(WOLF, path)
    (path.parents[1] / "out" / f"{path.stem}.lrp-eps.json").mkdir(parents=True)


KINDS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "%!PS": ("b.png", lambda path: path.write_bytes(b"%!PS-Adobe-3.0\n{} loop\n")),
    "FIFO": ("b.png", os.mkfifo),
    "device": ("b.png", lambda path: path.symlink_to("/dev/zero")),
    "link to itself": ("b.png", lambda path: path.symlink_to(path)),
    "link to nowhere": ("b.png", lambda path: path.symlink_to("nowhere")),
    "not UTF-8": ("b\udcff.png", lambda path: shutil.copy(WOLF, path)),
    "name too long": ("b" * 249 + ".png", lambda path: shutil.copy(WOLF, path)),
    "output taken": ("b.png", _taken),
    "objects": ("b.npy", lambda path: path.write_bytes(saved(np.array([{}], dtype=object)))),
    "huge": ("b.npy", lambda path: path.write_bytes(shaped("(3, 1000000, 1000000)"))),
    "overflow": ("b.npy", lambda path: path.write_bytes(saved(np.full((3, 9, 9), 3e38, np.float32)))),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_one_bad_picture_between_two_good_ones(kind: str, cli: Cli, tmp_path: Path, tiny: Path) -> None:
    """The run goes on over it, and so does --resume, without half an output."""
    name, make = KINDS[kind]
    images, out = tmp_path / "in", tmp_path / "out"
    images.mkdir()
    for good in "ac":
        shutil.copy(WOLF, images / f"{good}.png")
    make(images / name)
    for options in ([], ["--resume"]):
        ran = cli("explain", "in", "--model", tiny, "--out", "out", "--quiet", *options)
        assert ran.status == 1, ran.err
        assert ran.err.startswith("heatcli: ")
        assert ran.err.count("\n") == 1
        assert "b" in ran.err.partition(": ")[2][:6]
        found = {Path(row["image"]).name[0]: row["error"] is None for row in rows(out)}
        assert found == {"a": True, "b": False, "c": True}
        assert len(rows(out)) == 3
        assert not [path for path in out.glob("b*") if path.is_file()]


def test_a_folder_below_that_cannot_be_listed_is_a_failure_of_its_own(
    cli: Cli, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in" / "locked").mkdir(parents=True)
    shutil.copy(WOLF, tmp_path / "in" / "a.png")
    scan = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    ran = cli("explain", "in", "-r", "--model", tiny, "--quiet")
    assert (ran.status, ran.err) == (1, "heatcli: in/locked: cannot be read: Permission denied\n")
    assert len(rows(tmp_path / "heatmaps")) == 2


def test_what_explains_no_image_is_that_images_failure(
    cli: Cli, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is no error of heatcli's: a run does not end for it once it has explained another."""
    from heatcli.run.work import stages

    explain = stages.explain

    def failing(model: object, batch: torch.Tensor, *rest: object) -> object:
        if (batch == batch.flatten()[0]).all():
            raise RuntimeError("nobody expected this")
        return explain(model, batch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(stages, "explain", failing)
    images = tmp_path / "in"
    images.mkdir()
    for good in "ac":
        shutil.copy(WOLF, images / f"{good}.png")
    Image.new("RGB", (9, 9)).save(images / "b.png")
    ran = cli("explain", "in", "--model", tiny, "--quiet", "--batch-size", "1", "--workers", "1")
    assert ran.status == 1
    assert ran.err == "heatcli: in/b.png: it cannot be explained; run it alone with --debug: nobody expected this\n"
    assert [row["error"] is None for row in rows(tmp_path / "heatmaps")] == [True, False, True]


def test_a_failure_travels_between_processes_whatever_its_name() -> None:
    from heatcli.artifact.notes import Notes
    from heatcli.run.work.request import Failed

    failed = Failed(Job("b\udcff.png", "out", "b\\udcff.lrp-eps"), ImageError("b\udcff.png: no"))
    (one,) = unpacked(packed([failed], Notes()), "out", Notes())
    assert one.row == failed.row


# what it may cost


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, kind in ((tmp_path / "fifo", "a FIFO"), (Path("/dev/zero"), "a device"), (tmp_path, "a directory")):
        with pytest.raises(OSError, match=f"it is {kind}, not a regular file"):
            read_regular(path)
    (tmp_path / "file").write_bytes(b"12345")
    assert read_regular(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="it has 5 bytes, and at most 4 are read"):
        read_regular(tmp_path / "file", 4)


def test_only_formats_of_the_suffixes_are_opened(tmp_path: Path) -> None:
    """EPS, which starts Ghostscript, and others that Pillow knows are not; a wrong suffix does no harm."""
    assert {Image.registered_extensions()[suffix] for suffix in read.SUFFIXES - {".npy"}} == set(FORMATS)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "EPS")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    with pytest.raises(ImageError, match=r"a.png: is not an image that Pillow can read as any of PNG, JPEG"):
        Reader(3).picture(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(pictures()["a.gif"])
    assert Reader(3).picture(tmp_path / "b.jpg").size == (41, 37)


@pytest.mark.parametrize("name", ["b.tif", "i.tif", "c.tiff"])
def test_libtiff_says_nothing(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = bytearray(pictures()[name])
    content[20:60] = bytes(40)
    (tmp_path / name).write_bytes(content)
    try:
        Reader(3).picture(tmp_path / name)
    except ImageError as error:
        assert name in str(error)  # noqa: PT017  (it need not be raised)
    assert capfd.readouterr().err == ""


def test_a_large_picture_is_refused_before_it_is_decoded(cli: Cli, tmp_path: Path, tiny: Path) -> None:
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    ran = cli("explain", "a.png", "--model", tiny, "--max-pixels", "1999")
    assert (ran.status, ran.err) == (
        1, "heatcli: a.png: is too large; at most 1,999 pixels are read (--max-pixels)\n"
    )  # fmt: skip
    assert cli("explain", "a.png", "--model", tiny, "--max-pixels", "2000", "--quiet").status == 0
    assert cli("explain", "a.png", "--model", tiny, "--max-pixels", "0").status == 2


def _peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
    except (ImageError, ValueError):
        pass
    finally:
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return high


@pytest.mark.parametrize(
    "content",
    [
        shaped("(3, 500000, 500000)"), shaped(f"(3, {2**40}, {2**40})"), shaped("(3, 8000, 8000)"),
        npz({"x.npy": shaped("(3, 3000, 3000)", "|u1", bytes(27_000_000))}), png(60_000, 60_000),
    ],
    ids=["TB", "2^80", "missing", "inflated", "png"],
)  # fmt: skip
def test_bombs_take_no_memory(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "b.npz").write_bytes(content)
    reader = Reader(3, max_pixels=1 << 20)
    assert _peak(lambda: reader.picture(tmp_path / "b.npz")) < 2_000_000


def test_a_line_of_pixels_is_cropped_before_it_is_resized() -> None:
    """A picture of 1×60,000 would be 256×15,360,000 before its centre is cut out."""
    line = Image.fromarray(np.tile(np.arange(60_000, dtype=np.uint32)[:, None] // 300, (1, 1)).astype(np.uint8))
    for image in (line, line.transpose(Image.Transpose.ROTATE_90)):
        pixels = to_pixels(image, Fit(1, 96, 96, 256))
        assert pixels.shape == (1, 96, 96)
        assert np.abs(pixels - 99.5 / 255).max() < 1 / 255


@pytest.mark.parametrize("size", [(300, 70), (70, 300), (31, 33)])
@pytest.mark.parametrize("fit", [*FITS, Fit(3, 40, 40, 10)], ids=str)
def test_the_part_that_is_seen_is_that_of_the_whole(
    size: tuple[int, int], fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is resized alone is what is cut out of the whole, to 3 of 255 levels for bilinear."""
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    smooth = Image.fromarray(noise).resize((size[0] * 2, size[1] * 2), Image.Resampling.BICUBIC)
    whole = to_pixels(smooth, fit)
    monkeypatch.setattr(preprocess, "WHOLE", 0)
    part = to_pixels(smooth, fit)
    assert np.quantile(np.abs(whole - part), 0.99) <= 3 / 255


def test_strips_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Overlays, PNGs and transparency of large pictures, made in strips, are those made at once."""
    with Image.open(io.BytesIO(pictures()["b.png"])) as image:
        image.load()
    relevance = np.random.default_rng(0).normal(size=(16, 16))

    def made() -> list[NDArray[np.uint8]]:
        laid = overlays.overlay(image, relevance, (0, 0, 41, 37), "bwr", 0.9)
        with Image.open(io.BytesIO(compress.png_bytes(laid))) as again:
            return [
                np.asarray(laid),
                np.asarray(again),
                np.asarray(as_mode(image, "RGB")),
                np.asarray(as_mode(image, "L")),
            ]

    whole = made()
    assert np.array_equal(whole[0], whole[1])
    for module in (overlays, compress, read):
        monkeypatch.setattr(module, "STRIP", 41 * 5)
    for one, other in zip(whole, made(), strict=True):
        assert np.array_equal(one, other)


def test_an_overlay_of_a_crop_far_beyond_its_picture() -> None:
    """A small picture seen as a tiny part of a large input: the canvas is the picture's, not the input's."""
    relevance = np.zeros((224, 224))
    relevance[100:124, 100:124] = 1.0
    side = 112_000.0
    laid = overlays.overlay(Image.new("L", (1000, 1000)), relevance, (500 - side, 500 - side, 500 + side, 500 + side),
                            "bwr", 1.0)  # fmt: skip
    assert np.asarray(laid)[500, 500].tolist() == np.asarray(laid)[0, 0].tolist()
    assert np.asarray(laid)[500, 500, 0] > np.asarray(laid)[500, 500, 2]


def test_a_jpeg_of_thousands_of_scans(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    last = content[content.rindex(b"\xff\xda") : -2]
    (tmp_path / "a.jpg").write_bytes(content[:-2] + last * 2000 + content[-2:])
    with pytest.raises(ImageError, match=r"a.jpg: is a JPEG of more than 1,000 scans"):
        Reader(3).picture(tmp_path / "a.jpg")


@pytest.mark.parametrize("array", [
    np.arange(12, dtype=">f8").reshape(3, 4), np.asfortranarray(np.arange(24).reshape(2, 3, 4)), np.float16(3.5),
    np.zeros((0, 3)), np.array([True]), np.zeros((2, 2), ">u2"),
])  # fmt: skip
def test_arrays_are_read_as_numpy_reads_them(array: NDArray[np.generic]) -> None:
    for content in (saved(array), npz({"x.npy": saved(array)})):
        found = read_array(content)
        assert np.array_equal(found, array)
        assert found.dtype == np.asarray(array).dtype.newbyteorder("=")


def test_a_sidecar_that_is_there_and_cannot_be_read_is_no_absence(cli: Cli, tmp_path: Path) -> None:
    """A FIFO or a link to nowhere beside the model is an error: its numbers were meant."""
    shutil.copy(MODELS / "animals.pt", tmp_path / "m.pt")
    os.mkfifo(tmp_path / "m.toml")
    ran = cli("explain", WOLF, "--model", "m.pt")
    assert (ran.status, ran.err) == (3, "heatcli: m.toml: cannot be read: it is a FIFO, not a regular file\n")
    (tmp_path / "m.toml").unlink()
    (tmp_path / "m.toml").write_text("[input]\nsize = [-1, 96]\n")
    ran = cli("explain", WOLF, "--model", "m.pt")
    assert (ran.status, ran.err) == (3, "heatcli: m.toml: size = -1×96 is not allowed; it is from 1 to 1,048,576\n")
