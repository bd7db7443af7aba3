"""`--concept`: the map of what flows through channels of a layer, and what they gave to the score."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import MODELS, SAMPLES, Cli
from networks import load
from torch import Tensor, nn

import heatcli
from heatcli.errors import UsageError
from heatcli.explanation import Explanation
from heatcli.methods.concept import restricted
from heatcli.methods.table import METHODS

WOLF = SAMPLES / "wolf-on-snow.png"


class TwoFilters(nn.Module):
    """score = 2·ReLU(x0 + 1) − 3·ReLU(x1), the two terms being the channels of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Conv2d(2, 2, 1)
        self.head = nn.Linear(2, 1)
        with torch.no_grad():
            self.filters.weight.copy_(torch.eye(2).reshape(2, 2, 1, 1))
            self.filters.bias.copy_(torch.tensor([1.0, 0.0]))
            self.head.weight.copy_(torch.tensor([[2.0, -3.0]]))
            self.head.bias.fill_(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.filters(x).relu().flatten(1))


def through(model: heatcli.Model, batch: Tensor, concept: str, method: str = "lrp-0", **more: object) -> Explanation:
    return heatcli.explain(model, batch, method, target=0, concept=concept, **more)


def test_the_share_of_a_channel_is_divided_among_pixels_and_biases_before_it(tmp_path: Path) -> None:
    x = torch.tensor([[3.0, 2.0], [1.0, 5.0]]).reshape(2, 2, 1, 1)
    model = load(TwoFilters(), tmp_path, shape=(2, 1, 1))
    for channel, pixels, bias in ((0, [[6.0, 0.0], [2.0, 0.0]], 2.0), (1, [[0.0, -6.0], [0.0, -15.0]], 0.0)):
        found = through(model, x, f"filters:{channel}")
        assert found.relevance.flatten(1).tolist() == pixels
        assert found.ledger.output.tolist() == [sum(row) + bias for row in pixels]
        assert found.ledger.biases.tolist() == [bias, bias]  # the head's bias comes after the layer
        assert found.concept is not None
        assert found.concept.relevance.tolist() == [[8.0, -6.0], [4.0, -15.0]]
        assert found.concept.score.tolist() == [2.5, -10.5]


@pytest.mark.parametrize(
    ("method", "baseline"),
    [
        ("lrp-eps", "blur"),
        ("lrp-eps", "none"),
        ("lrp-epsilon-plus", "none"),
        ("lrp-zb", "none"),
        ("deeplift-rescale", "zero"),
    ],
)
def test_the_maps_of_all_channels_add_up_to_the_ordinary_map(method: str, baseline: str) -> None:
    """`stage3` is where everything passes; 96 channels in two parts of 48."""
    model = heatcli.load(MODELS / "animals.pt")
    batch = model.preprocess([WOLF])
    whole = heatcli.explain(model, batch, method, target=0, baseline=baseline)
    through_all = through(model, batch, "stage3", method, baseline=baseline)
    parts = [
        through(model, batch, f"stage3:{','.join(map(str, range(start, start + 48)))}", method, baseline=baseline)
        for start in range(0, 96, 48)
    ]
    scale = float(whole.relevance.abs().max())
    assert float((sum(part.relevance for part in parts) - whole.relevance).abs().max()) < 1e-5 * scale
    assert float((through_all.relevance - whole.relevance).abs().max()) < 1e-5 * scale
    assert through_all.concept is not None
    for part in parts:
        assert float(part.ledger.relative_error * part.ledger.output.abs()) < 1e-5 * float(whole.ledger.output)
        assert part.concept is not None
        torch.testing.assert_close(part.concept.relevance, through_all.concept.relevance)
    shares = sum(float(part.ledger.output) for part in parts)
    assert shares == pytest.approx(float(through_all.concept.relevance.sum()), rel=1e-6)


def test_images_of_a_batch_are_apart(tmp_path: Path) -> None:
    x = torch.randn(3, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    model = load(TwoFilters(), tmp_path, shape=(2, 1, 1))
    together = through(model, x, "filters:0")
    for i in range(3):
        torch.testing.assert_close(together.relevance[i : i + 1], through(model, x[i : i + 1], "filters:0").relevance)


def test_a_baseline_that_images_share() -> None:
    """A batch with one black baseline for all: each image as alone."""
    model = heatcli.load(MODELS / "animals.pt")
    batch = model.preprocess([WOLF, SAMPLES / "cow-on-grass.png"])
    together = through(model, batch, "stage3:36", baseline="black")
    for i in range(2):
        alone = through(model, batch[i : i + 1], "stage3:36", baseline="black")
        torch.testing.assert_close(together.relevance[i : i + 1], alone.relevance, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("concept", "said"),
    [
        ("filters:2", "layer convolution_0 has channels 0 to 1, not 2"),
        ("filter:0", "unknown layer of"),
        ("filters:a", "layer convolution_0 has no channel called a; names come from --concept-names FILE"),
        ("filters:1,", "is not of the form LAYER"),
        (":1", "is not of the form LAYER"),
    ],
)
def test_what_is_not_there(tmp_path: Path, concept: str, said: str) -> None:
    model = load(TwoFilters(), tmp_path, shape=(2, 1, 1))
    with pytest.raises(UsageError, match=said):
        through(model, torch.ones(1, 2, 1, 1), concept)


@pytest.mark.parametrize("method", ["gradient", "integrated-gradients", "grad-cam", "occlusion"])
def test_other_methods_are_refused(method: str) -> None:
    with pytest.raises(UsageError, match="does not divide the score in one walk"):
        restricted(METHODS[method], "stage3:1")


def test_the_command(cli: Cli, tmp_path: Path) -> None:
    done = cli("explain", WOLF, "--concept", "stage3:36,49", "--out", tmp_path)
    assert done.status == 0, done.err
    report = json.loads((tmp_path / "wolf-on-snow.lrp-eps.json").read_text())
    assert report["method"]["parameters"]["concept"] == "stage3:36,49"
    part, ledger = report["concept"], report["ledger"]
    assert (part["layer"], part["channels"]) == ("relu_37", [36, 49])
    known = {one["channel"]: one["relevance"] for one in part["strongest"]}
    assert ledger["output"] == pytest.approx(known[36] + known[49], rel=1e-5)
    assert report["target"]["score"] == pytest.approx(3.68385, rel=1e-5)
    assert part["layer_relevance"] == pytest.approx(5.525, rel=1e-3)  # all that the blurred picture lacks
    assert "relu_37:36,49 gave" in done.err + done.out
    refused = cli("explain", WOLF, "--concept", "stage3:96", "--out", tmp_path / "none")
    assert refused.status == 2
    assert "has channels 0 to 95, not 96" in refused.err
    assert not list((tmp_path / "none").glob("*.json"))
