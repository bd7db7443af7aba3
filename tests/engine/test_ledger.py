"""The ledger of whole networks: the books balance to 1e-5 of the output, in every format, for every conserving method.

`python tests/measure/ledger.py` prints the same numbers as the table of tests/measure/LEDGER.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from networks import ARCHITECTURES, CONSERVING, CORE_CONSERVING, SECANT, architecture, images, load
from PIL import Image
from torch import Tensor, nn

import heatcli
from heatcli.engine.ledger import Ledger

ROOT = Path(__file__).parents[2]
# Those with a rule of their own always, the others in the slow set.
EACH = [*CORE_CONSERVING, *(pytest.param(n, marks=pytest.mark.slow) for n in CONSERVING if n not in CORE_CONSERVING)]
BALANCED = 1e-5
STABILISED = 1e-4  # with a stabiliser in every layer


def assert_balanced(result: heatcli.Explanation, to: float = BALANCED) -> None:
    """Nothing unexplained, and pixels + biases + absorbed are the output, each recomputed from its parts."""
    assert not result.unexplained
    ledger = result.ledger
    assert bool((ledger.unexplained == 0).all())
    torch.testing.assert_close(ledger.pixels, result.relevance.double().flatten(1).sum(1), rtol=1e-9, atol=1e-9)
    biases = sum((entries.double().sum(1) for entries in result.biases.values()), torch.zeros_like(ledger.output))
    torch.testing.assert_close(ledger.biases, biases, rtol=1e-9, atol=1e-9)
    left = ledger.output - ledger.output_baseline - ledger.pixels - ledger.biases - ledger.absorbed
    largest = torch.maximum(ledger.output.abs(), ledger.output_baseline.abs())
    assert (left.abs() / largest).max() <= to
    torch.testing.assert_close(ledger.relative_error, left.abs() / largest)


# --- torchvision, random weights ----------------------------------------------------------------------------------


def small(name: str) -> nn.Module:
    """The architecture, VGG with a narrow head: its own one is half a gigabyte of dense weights."""
    module = architecture(name)
    if name.startswith("vgg"):
        torch.manual_seed(0)
        module.classifier = nn.Sequential(nn.Linear(512 * 49, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 10)).eval()
    return module


@pytest.fixture(scope="module", params=ARCHITECTURES)
def scripted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> heatcli.Model:
    return load(small(request.param), tmp_path_factory.mktemp("scripted"), shape=(3, 64, 64))


@pytest.mark.parametrize("method", EACH)
def test_the_books_balance(scripted: heatcli.Model, method: str, request: pytest.FixtureRequest) -> None:
    batch = images(4, shape=(3, 64, 64))
    result = heatcli.explain(scripted, batch, method)
    # rounding at the head that replaces vgg16's is 4e-6 of the score on average, and 1.5e-5 at most of 96 images
    core = 2 * BALANCED if request.node.callspec.params["scripted"].startswith("vgg") else BALANCED
    assert_balanced(result, core if method in CORE_CONSERVING else STABILISED)
    mass = result.relevance.double().abs().flatten(1).sum(1)
    if method in SECANT:  # z⁺ and γ leave most to the biases of such a network
        assert (mass > 100 * BALANCED * result.ledger.output.abs()).all(), "or no fault at a pixel could show"


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_the_books_balance_with_a_baseline_image_and_a_coarse_stabiliser(name: str, tmp_path: Path) -> None:
    model, batch = load(architecture(name), tmp_path, shape=(3, 64, 64)), images(4, shape=(3, 64, 64))
    assert_balanced(heatcli.explain(model, batch, "lrp-eps", baseline="blur:4"))
    result = heatcli.explain(model, batch, "lrp-eps", epsilon=0.1)
    assert_balanced(result)
    assert result.ledger.absorbed.abs().min() > 1e-3


# --- the models that ship -----------------------------------------------------------------------------------------

SHIPPED = {"animals.pt": "samples", "animals-shortcut.pt": "samples", "digits.onnx": "samples/digits"}


@pytest.fixture(scope="module", params=list(SHIPPED))
def shipped(request: pytest.FixtureRequest) -> tuple[heatcli.Model, Tensor]:
    """A model, and a batch of its samples."""
    model = heatcli.load(ROOT / "models" / request.param)
    pictures = sorted((ROOT / SHIPPED[request.param]).glob("*.png"))[:4]
    assert len(pictures) == 4
    return model, model.preprocess([Image.open(picture) for picture in pictures])


@pytest.mark.parametrize("baseline", ["none", "black", "blur"])
@pytest.mark.parametrize("method", EACH)
def test_the_books_balance_on_the_models_that_ship(
    shipped: tuple[heatcli.Model, Tensor], method: str, baseline: str
) -> None:
    model, batch = shipped
    assert_balanced(heatcli.explain(model, batch, method, baseline=baseline))


# --- every format, at 224 × 224 -----------------------------------------------------------------------------------

LARGE = (3, 224, 224)


def largest_difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def assert_format(module: nn.Module, batch: Tensor, folder: Path, form: str) -> dict[str, Ledger]:
    """The artifact's output is the module's, and its books balance; the ledger of each method."""
    model = load(module, folder, form, LARGE)
    with torch.no_grad():
        expected = module(batch)
    ledgers = {}
    for method in CONSERVING:
        result = heatcli.explain(model, batch, method)
        assert largest_difference(result.outputs, expected) <= 1e-4
        assert_balanced(result)
        ledgers[method] = result.ledger
    return ledgers


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_torchscript_and_export_keep_the_same_books(name: str, tmp_path: Path) -> None:
    module, batch = architecture(name, 224), images(8, shape=LARGE)
    scripted, exported = (assert_format(module, batch, tmp_path, form) for form in ("scripted", "pt2"))
    for method in CONSERVING:
        torch.testing.assert_close(exported[method].biases, scripted[method].biases, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx-old", "onnx-new"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_onnx_keeps_its_books(name: str, form: str, tmp_path: Path) -> None:
    """Both exporters; they fold batch norms into convolutions, so only the sum over all biases is comparable."""
    module, batch = architecture(name, 224), images(8, shape=LARGE)
    assert_format(module, batch, tmp_path, form)


def test_a_number_of_one_image(tmp_path: Path) -> None:
    """An operator without a rule that makes one number, without dimensions, of a batch that is a single image."""

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([[3.0, 1.0]]))

        def forward(self, x: Tensor) -> Tensor:
            return x.sigmoid().prod() * self.weight

    torch.jit.trace(Product(), torch.ones(1, 3, 2, 2)).save(str(tmp_path / "m.pt"))
    batch = torch.randn(2, 3, 2, 2)
    result = heatcli.explain(heatcli.load(tmp_path / "m.pt", size=2), batch, "lrp-eps")
    ledger = result.ledger
    parts = ledger.pixels + ledger.biases + ledger.absorbed + ledger.unexplained
    torch.testing.assert_close(ledger.output - ledger.output_baseline, parts, rtol=BALANCED, atol=BALANCED)
    assert result.unexplained
