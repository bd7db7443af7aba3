"""Python as a notebook's user guesses it: what `load` and `explain` take, what is shown of it, what is exported."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MODELS, SAMPLES
from PIL import Image
from torch import Tensor, nn

import heatcli

WOLF = SAMPLES / "wolf-on-snow.png"


class Net(nn.Module):
    """A small classifier with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.classifier = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class Two(Net):
    """The same, which scales the picture by a second input."""

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return super().forward(x * scale[:, :, None, None])


@pytest.fixture
def net() -> Net:
    return Net().eval()


def example() -> Tensor:
    return torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(1))


def forms(net: Net) -> dict[str, object]:
    x = example()
    return {
        "module": net,
        "scripted": torch.jit.script(net),
        "traced": torch.jit.trace(net, x),
        "exported": torch.export.export(net, (x,)),
    }


@pytest.mark.parametrize("form", ["module", "scripted", "traced", "exported"])
def test_a_model_in_memory_is_explained_as_a_file_is(net: Net, form: str, tmp_path: Path) -> None:
    """All forms give the maps, the biases' names and the checked outputs of the same network in a file."""
    x = example()
    torch.jit.script(net).save(str(tmp_path / "net.pt"))
    expected = heatcli.explain(heatcli.load(tmp_path / "net.pt", size=(12, 10)), x)
    model = heatcli.load(forms(net)[form], x)
    found = heatcli.explain(model, x)
    assert torch.allclose(found.relevance, expected.relevance, atol=1e-6)
    assert torch.allclose(found.ledger.output.float(), net(x).max(1).values, atol=1e-6)
    assert sorted(found.biases) == sorted(expected.biases)
    assert found.verified is not None
    assert found.verified.agrees
    assert model.shape == (3, 12, 10)
    assert found.report()["model"]["format"] == {"module": "module", "exported": "pt2"}.get(form, "torchscript")


def test_the_users_module_stays_as_it_is(net: Net) -> None:
    net.train()
    before = copy.deepcopy(net.state_dict())
    model = heatcli.load(net, example())
    first = heatcli.explain(model, example()).relevance
    assert net.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())
    assert any("training mode" in note for note in model.notes)
    with torch.no_grad():
        net.classifier.weight.zero_()
    assert torch.equal(heatcli.explain(model, example()).relevance, first)


def test_all_inputs_are_an_example() -> None:
    """The picture's input is found among them, the others get their values from it."""
    net, x, scale = Two().eval(), example()[:1], torch.full((1, 3), 0.5)
    found = heatcli.explain(heatcli.load(net, (x, scale)), x)
    assert float(found.ledger.output) == pytest.approx(net(x, scale).max().item(), rel=1e-5)
    with pytest.raises(heatcli.UsageError, match="the example is of 1 inputs, the model takes 2"):
        heatcli.load(net, x)


def test_explain_loads_what_is_no_model_yet(net: Net) -> None:
    assert heatcli.explain(net, example()).relevance.shape == (2, 3, 12, 10)
    assert "wolf" in repr(heatcli.explain(MODELS / "animals.pt", WOLF))


def test_what_is_no_model_is_told() -> None:
    with pytest.raises(
        heatcli.UsageError, match=r"dict is no model; give the path of an artifact, a torch\.nn\.Module"
    ):
        heatcli.load({"weights": 1})
    with pytest.raises(heatcli.UsageError, match=r"Net \(in memory\): nothing says its input size; .*an example"):
        heatcli.explain(heatcli.load(Net(), resize="crop"), WOLF)


def test_pictures_of_any_kind_are_the_same_picture() -> None:
    """A path, a Pillow image, uint8 HWC and CHW, a tensor, and lists and stacks of these."""
    model = heatcli.load(MODELS / "animals.pt")
    with Image.open(WOLF) as opened:
        picture = opened.convert("RGB")
    array = np.asarray(picture)
    expected = model.preprocess([picture])
    one = [WOLF, str(WOLF), picture, array, array.transpose(2, 0, 1), torch.from_numpy(array.copy())]
    for given in one:
        assert torch.allclose(model.preprocess(given), expected, atol=0.02)  # pictures are resized in whole numbers
        assert torch.allclose(model.preprocess([given, given]), expected.expand(2, -1, -1, -1), atol=0.02)
        found = heatcli.explain(model, given)
        assert found.relevance.shape == (1, 3, 96, 96)
        assert found.report()["target"]["label"] == "wolf"
    assert torch.allclose(model.preprocess(np.stack([array, array])), expected.expand(2, -1, -1, -1), atol=0.02)
    both = heatcli.explain(model, [WOLF, picture])
    assert torch.equal(both.relevance[0], both.relevance[1])
    assert both.report(0)["image"]["sha256"] == hashlib.sha256(WOLF.read_bytes()).hexdigest()
    assert torch.allclose(heatcli.explain(model, expected[0]).relevance[0], both.relevance[0], atol=1e-3)
    with pytest.raises(heatcli.ImageError, match=r"missing\.png: no such image file"):
        heatcli.explain(model, "missing.png")
    for given, name in ((3, "int"), (None, "NoneType"), ([[1, 2], [3, 4]], "list"), ([None], "NoneType")):
        with pytest.raises(heatcli.UsageError, match=f"^{name} is no picture; give a path, a Pillow image"):
            heatcli.explain(model, given)


def test_numbers_that_are_no_classes_are_not_called_classes() -> None:
    """In the prompt and in the figure; as `heatcli explain` prints it."""

    class Embedding(Net):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.normalize(super().forward(x), dim=1)

    found = heatcli.explain(heatcli.load(Embedding().eval(), example()), example()[:1], target=1)
    assert ": number 1, output " in repr(found)
    assert ": number 1, output " in found.figure().text
    found = heatcli.explain(heatcli.load(Net().eval(), example()), example()[:1], target=1)
    assert ": class 1, output " in repr(found)
    assert ": class 1, output " in found.figure().text


def test_what_a_prompt_shows() -> None:
    """The interface is offered by `dir`, and nothing fills the screen."""
    offered = set(dir(heatcli))
    assert {"load", "explain", "METHODS", "UsageError", "ModelError", "ImageError", "HeatcliError"} <= offered
    assert all(getattr(heatcli, name) is not None for name in heatcli.__all__)
    model = heatcli.load()
    assert repr(model) == "<Model animals.pt: torchscript, input 3×96×96, 16 labels, on cpu>"
    result = heatcli.explain(model, WOLF)
    assert len(repr(result)) < 300
    assert len(repr(result.ledger)) < 600
    assert (Path(heatcli.__file__).parent / "py.typed").is_file()
