"""`heatcli compare`: a conversion agrees with its source, another model and another method do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import MODELS, SAMPLES, Cli
from networks import Residual, randomised

PICTURES = tuple(SAMPLES / f"{name}.png" for name in ("wolf-on-snow", "dog-on-snow", "wolf-on-grass"))


@pytest.fixture
def converted(tmp_path: Path) -> tuple[Path, Path]:
    """A network as TorchScript and as torch.export saves it."""
    net = randomised(Residual(), 3).eval()
    torch.jit.script(net).save(str(tmp_path / "net.pt"))
    batch = torch.export.Dim("N", min=1)
    program = torch.export.export(net, (torch.zeros(2, 3, 16, 16),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "net.pt2")
    return tmp_path / "net.pt", tmp_path / "net.pt2"


def test_a_conversion_agrees(cli: Cli, converted: tuple[Path, Path]) -> None:
    """Outputs, heatmaps and every bias of the TorchScript artifact and of its .pt2."""
    ran = cli(
        "compare", *converted, *PICTURES, "--size", "16", "--channels", "3", "--most-difference", "1e-3", "--json"
    )
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)
    assert found["schema"] == "heatcli.comparison/1"
    assert len(found["pairs"]) == 3
    for pair in found["pairs"]:
        assert pair["rank_correlation"] > 0.9999
        for both in pair["biases"].values():
            assert both["a"] == pytest.approx(both["b"], rel=1e-3, abs=1e-5)


def test_another_model_does_not(cli: Cli) -> None:
    """The images where the two disagree come first, and the threshold ends in 1, naming them."""
    ran = cli("compare", MODELS / "animals.pt", MODELS / "animals-shortcut.pt", *PICTURES, "--least-correlation", "0.5")
    assert ran.status == 1
    assert ran.err.count("rank correlation") == 3
    rows = [line for line in ran.out.splitlines() if ".png" in line or "wolf" in line]
    assert rows
    ran = cli("compare", MODELS / "animals.pt", MODELS / "animals-shortcut.pt", *PICTURES, "--json")
    assert ran.status == 0
    pairs = json.loads(ran.out)["pairs"]
    assert [p["label_a"] == p["label_b"] for p in pairs] == [False, False, True]
    assert pairs[0]["score"]["a"] != pytest.approx(pairs[0]["score"]["b"], abs=0.5)


def test_two_methods_on_one_model(cli: Cli) -> None:
    ran = cli("compare", "lrp-0", "lrp-eps:epsilon=0", *PICTURES, "--most-difference", "1e-4")
    assert ran.status == 0, ran.err
    ran = cli("compare", "lrp-0", "gradient", PICTURES[0], "--least-correlation", "0.9", "--json")
    assert ran.status == 1
    assert json.loads(ran.out)["pairs"][0]["output_difference"] == 0


def test_labels_say_which_classes_are_the_same(cli: Cli, tmp_path: Path) -> None:
    """The same network with its classes in another order: scores are matched by label."""
    turned = torch.jit.load(str(MODELS / "animals.pt"))
    with torch.no_grad():
        for parameter in (turned.fc.weight, turned.fc.bias):
            parameter.copy_(parameter.flip(0))
    turned.save(str(tmp_path / "turned.pt"))
    sidecar = (MODELS / "animals.toml").read_text(encoding="utf-8").splitlines()
    names = next(line for line in sidecar if line.startswith("names"))
    other = "names = " + json.dumps(json.loads(names.partition("=")[2])[::-1])
    text = "\n".join(other if line == names else line for line in sidecar if not line.startswith('mean = "animals'))
    (tmp_path / "turned.toml").write_text(text, encoding="utf-8")
    ran = cli("compare", MODELS / "animals.pt", "turned.pt", *PICTURES, "--most-difference", "1e-2", "--json")
    assert ran.status == 0, ran.err
    assert all(p["label_a"] == p["label_b"] for p in json.loads(ran.out)["pairs"])


def test_what_cannot_be_compared_is_told(cli: Cli) -> None:
    ran = cli("compare", MODELS / "animals.pt", "lrp-eps", PICTURES[0])
    assert ran.status == 2
    assert "give two artifacts, or two methods and perhaps --model" in ran.err
    ran = cli("compare", MODELS / "animals.pt", MODELS / "digits.onnx", PICTURES[0])
    assert ran.status == 2
    assert "has no class 'wolf'" in ran.err
