"""Quantus, Captum and heatcli on the same maps: the same number where the definition is the same."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from conftest import MODELS
from subjects import animals, digits
from torch import Tensor

from heatcli.evaluate import complexity, location, perturbation, robustness
from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.similarity import rank_correlation, ssim

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    quantus = pytest.importorskip("quantus", reason="install .[peers]")
captum = pytest.importorskip("captum.metrics")

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

MAPS = ("gradient", "input-x-gradient", "lrp-eps", "deeplift-rescale")
EACH = pytest.mark.parametrize("name", MAPS)
QUIET = {"disable_warnings": True, "display_progressbar": False}
AGREE = 1e-3


def module(stem: str) -> torch.nn.Module:
    return torch.jit.load(str(MODELS / f"{stem}.pt")).eval()


def quantus_says(metric: object, heatmaps: Tensor, **more: object) -> Tensor:
    """A Quantus metric on absolute or positive maps of the animals."""
    subject = animals()
    found = metric(  # type: ignore[operator]
        model=module("animals"), x_batch=subject.batch.numpy(), y_batch=subject.target.index.numpy(),
        a_batch=heatmaps[:, None].double().numpy(), **more,
    )  # fmt: skip
    return torch.as_tensor(np.asarray(found, dtype=np.float64))


def assert_agree(found: Tensor, expected: Tensor) -> None:
    assert float((found - expected).abs().max()) <= AGREE, (found, expected)


@EACH
def test_complexity_and_sparseness(name: str) -> None:
    heatmaps = animals().heatmaps(Explainer.parse(name))
    options = {"abs": True, "normalise": False, **QUIET}
    assert_agree(complexity.entropy(heatmaps), quantus_says(quantus.Complexity(**options), heatmaps))
    assert_agree(complexity.sparseness(heatmaps), quantus_says(quantus.Sparseness(**options), heatmaps))


@EACH
def test_inside_mask_is_relevance_mass_accuracy_of_positive_relevance(name: str) -> None:
    subject = animals()
    heatmaps = subject.heatmaps(Explainer.parse(name)).clamp(min=0)
    mask = (subject.mask >= 0.5).float()
    mass = quantus.RelevanceMassAccuracy(abs=False, normalise=False, **QUIET)
    assert_agree(location.inside_share(heatmaps, mask), quantus_says(mass, heatmaps, s_batch=mask[:, None].numpy() > 0))


@EACH
def test_the_pointing_game(name: str) -> None:
    subject = animals()
    heatmaps = subject.heatmaps(Explainer.parse(name))
    mask = (subject.mask >= 0.5).float()
    game = quantus.PointingGame(abs=False, normalise=False, weighted=False, **QUIET)
    assert_agree(location.pointing(heatmaps, mask), quantus_says(game, heatmaps, s_batch=mask[:, None].numpy() > 0))


@EACH
def test_similarities(name: str) -> None:
    subject = animals()
    a = subject.heatmaps(Explainer.parse(name)).double()
    b = subject.heatmaps(Explainer.parse("lrp-eps@blur")).double()
    for i in range(len(a)):
        one, other = a[i].numpy(), b[i].numpy()
        spearman = quantus.similarity_func.correlation_spearman(one.flatten(), other.flatten())
        assert float(rank_correlation(a, b)[i]) == pytest.approx(spearman, abs=AGREE)
    assert torch.allclose(ssim(a, a), torch.ones(len(a), dtype=torch.float64))


@EACH
def test_pixel_flipping_in_blocks_of_pixels(name: str) -> None:
    """The same order and the same fill, so the same curve; Quantus takes the logits where no softmax is asked for."""
    subject = digits().rows(torch.arange(4))
    explainer = Explainer.parse(name)
    heatmaps = torch.relu(subject.heatmaps(explainer)) + 1e-4 * torch.rand(4, 28, 28)  # no ties: sorts differ on them
    steps = 28
    ours = perturbation.curve(
        subject, perturbation.by_pixel(heatmaps, steps), steps, subject.batch, perturbation.black(subject)
    )

    class Logits(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return subject.outputs(x).sum(2)

    flipping = quantus.PixelFlipping(
        features_in_step=28 * 28 // steps, perturb_baseline=0.0, abs=False, normalise=False,
        return_auc_per_sample=False, **QUIET,
    )  # fmt: skip
    theirs = flipping(
        model=Logits().eval(), x_batch=subject.batch.numpy(), y_batch=subject.target.index.numpy(),
        a_batch=heatmaps[:, None].numpy(), softmax=False,
    )  # fmt: skip
    assert_agree(ours[:, 1:], torch.as_tensor(np.asarray(theirs, dtype=np.float64)))


@pytest.mark.parametrize("name", ["gradient", "input-x-gradient", "deeplift-rescale"])
@pytest.mark.parametrize("scaled", [False, True])
def test_infidelity_is_captums(name: str, scaled: bool) -> None:
    """On the same perturbations; Captum's normalised one is ours times the mean square of what happened."""
    subject, explainer = animals(), Explainer.parse(name)
    removed = robustness.squares(subject, 8)
    turn = iter(removed)

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        gone = next(turn).expand_as(inputs)
        changed = torch.where(gone, 0.0, inputs)
        return (gone.to(inputs) if explainer.multiplies else inputs - changed), changed

    theirs = captum.infidelity(
        module("animals"), perturb, subject.batch, subject.relevance(explainer), target=subject.target.index,
        n_perturb_samples=8, max_examples_per_batch=len(subject), normalize=scaled,
    )  # fmt: skip
    raw, free = robustness.infidelity(subject, explainer, removed)
    before = subject.scores()
    fall = torch.stack([before - subject.scores(torch.where(gone, 0.0, subject.batch)) for gone in removed])
    ours = free * fall.square().mean(0) if scaled else raw
    assert torch.allclose(ours, theirs.double(), rtol=AGREE, atol=AGREE)


def test_max_sensitivity_is_captums() -> None:
    """The same noise, the same heatmaps: Captum's largest change over the map's norm."""
    subject, explainer = animals(), Explainer.parse("input-x-gradient")
    ours = robustness.max_sensitivity(subject, explainer, radius=0.02, draws=3)
    generator = subject.generator(4)
    unit = subject.model.pictures.normalise(torch.ones_like(subject.batch)) - subject.model.pictures.normalise(
        torch.zeros_like(subject.batch)
    )

    def perturb(inputs: Tensor | tuple[Tensor], radius: float) -> Tensor:
        tensor = inputs if isinstance(inputs, Tensor) else inputs[0]
        return tensor + radius * (2 * torch.rand(tensor.shape, generator=generator) - 1) * unit

    def explained(inputs: Tensor | tuple[Tensor]) -> tuple[Tensor]:
        return (subject.relevance(explainer, inputs if isinstance(inputs, Tensor) else inputs[0]),)

    theirs = captum.sensitivity_max(
        explained, subject.batch, perturb_func=perturb, perturb_radius=0.02, n_perturb_samples=3, norm_ord="fro",
        max_examples_per_batch=len(subject),
    )  # fmt: skip
    assert torch.allclose(ours, theirs.double(), atol=AGREE)
