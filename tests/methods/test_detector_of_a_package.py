"""A detector that a package ships: YOLOv8n of PyPI's `nudenet` (extra `peers`), on a photograph of scikit-image."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli
from PIL import Image

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
    for method in ("grad-cam", "layer-cam"):  # by the layer of the box's own scale
        ran = cli("explain", "wide.png", "-m", artifact, "--target", "detections:1", "--method", method, "--json")
        relevance = np.array(json.loads(ran.out)["pixels"]["values"])
        assert relevance[top:bottom, left:right].mean() > 5 * relevance.mean()
