"""Methods of many walks, against integrals and means that are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SAMPLES, Cli
from hypothesis import given
from hypothesis import strategies as st
from networks import Linear, images, load, network
from PIL import Image
from torch import Tensor, nn

import heatcli
from heatcli.errors import UsageError
from heatcli.methods import path, smooth
from heatcli.methods.table import method

WOLF = str(SAMPLES / "wolf-on-snow.png")


class Cubic(Linear):
    """The weighted sum of the pixels' cubes."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((x * x * x).flatten(1))


def weights(model: nn.Module) -> Tensor:
    return model.fc.weight.detach()[0].reshape(3, 16, 16)


# --- integrated gradients -----------------------------------------------------------------------------------------


@given(st.sampled_from(path.RULES), st.integers(2, 60))
def test_a_quadrature_is_exact_for_what_its_rule_promises(rule: str, steps: int) -> None:
    """All are for constants; the middle and the trapezoid for straight lines; Gauss-Legendre up to degree 2n − 1."""
    points, weighted = path.quadrature(rule, steps)
    assert weighted.sum() == pytest.approx(1)
    if rule in ("gauss-legendre", "riemann-middle", "riemann-trapezoid"):
        assert (points * weighted).sum() == pytest.approx(1 / 2)
    if rule == "gauss-legendre":
        degree = min(2 * steps - 1, 21)
        assert (points**degree * weighted).sum() == pytest.approx(1 / (degree + 1))
    else:
        edge = {"riemann": points[-1] == 1, "riemann-left": points[0] == 0}
        assert edge.get(rule, True)


def test_the_integral_of_cubes_is_known(tmp_path: Path) -> None:
    """w·(x³ − x0³): two points of Gauss-Legendre find it, two of the right-hand Riemann sum cannot."""
    module, batch, start = Cubic(), images(2), images(1, 5)[0]
    model, expected = load(module, tmp_path), weights(module) * (batch**3 - start**3)
    found = heatcli.explain(model, batch, "integrated-gradients", 0, start, steps=2)
    assert torch.allclose(found.relevance, expected, atol=1e-5)
    assert float(found.ledger.unexplained.abs().max()) < 1e-4
    coarse = heatcli.explain(model, batch, "integrated-gradients", 0, start, steps=2, rule="riemann")
    assert not torch.allclose(coarse.relevance, expected, atol=1e-2)
    right_hand = weights(module) * (batch - start) * sum(3 * (start + a * (batch - start)) ** 2 for a in (0.5, 1)) / 2
    assert torch.allclose(coarse.relevance, right_hand, atol=1e-5)


def test_unexplained_is_the_gap_of_the_quadrature(tmp_path: Path) -> None:
    """It closes as the steps get finer, on a network whose activations are smooth."""
    model, batch = load(network("normed"), tmp_path), images(2)
    gaps = []
    for steps in (1, 4, 64):
        ledger = heatcli.explain(model, batch, "integrated-gradients", steps=steps).ledger
        assert torch.allclose(ledger.pixels + ledger.unexplained, ledger.output - ledger.output_baseline)
        gaps.append(float((ledger.unexplained / ledger.output).abs().max()))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-2


# --- several baselines --------------------------------------------------------------------------------------------


def test_deep_shap_is_the_mean_of_deeplifts(tmp_path: Path) -> None:
    model, batch, pool = load(network("residual"), tmp_path), images(2), images(3, 7)
    found = heatcli.explain(model, batch, "deep-shap", 1, pool)
    each = [heatcli.explain(model, batch, "deeplift-rescale", 1, start) for start in pool]
    expected = torch.stack([e.relevance for e in each]).mean(0)
    assert torch.allclose(found.relevance, expected, atol=1e-5 * float(expected.abs().max()))
    assert torch.allclose(found.ledger.output_baseline, torch.stack([e.ledger.output_baseline for e in each]).mean(0))
    assert float(found.ledger.relative_error.max()) < 1e-5


def test_deep_shap_takes_any_rules_and_one_baseline(tmp_path: Path) -> None:
    model, batch, start = load(network("plain"), tmp_path), images(2), images(1, 12)[0]
    eps = heatcli.explain(model, batch, method("deep-shap").with_rules(["affine=epsilon:epsilon=0.1"]), 0, start)
    same = heatcli.explain(model, batch, method("lrp-eps", epsilon=0.1), 0, start)
    assert torch.allclose(eps.relevance, same.relevance, atol=1e-6)
    assert torch.allclose(eps.ledger.absorbed, same.ledger.absorbed, atol=1e-6)


def test_expected_gradients_of_a_linear_score_are_exact(tmp_path: Path) -> None:
    """w·(x − mean of the baselines), as every baseline comes up equally often."""
    module, batch, pool = Linear(), images(2), images(4, 3)
    found = heatcli.explain(load(module, tmp_path), batch, "expected-gradients", 0, pool, samples=8)
    assert torch.allclose(found.relevance, weights(module) * (batch - pool.mean(0)), atol=1e-5)
    assert float(found.ledger.unexplained.abs().max()) < 1e-4


def test_expected_gradients_from_one_baseline_are_integrated_gradients(tmp_path: Path) -> None:
    model, batch = load(network("normed"), tmp_path), images(1)
    whole = heatcli.explain(model, batch, "integrated-gradients", 0, steps=200).relevance
    found = heatcli.explain(model, batch, "expected-gradients", 0, samples=200).relevance
    assert float((found - whole).abs().max() / whole.abs().max()) < 0.03
    independent = heatcli.explain(model, batch, "expected-gradients", 0, samples=3).relevance
    assert float((independent - whole).abs().max() / whole.abs().max()) > 0.03


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5))
def test_draws_cover_baselines_and_path_evenly(samples: int, pool: int, seed: int) -> None:
    which, along = path.draws(samples, pool, seed)
    counts = torch.bincount(which, minlength=pool)
    assert int(counts.max() - counts.min()) <= 1
    assert sorted((along * samples).floor().int().tolist()) == list(range(samples))


# --- around the image ---------------------------------------------------------------------------------------------


def test_noise_says_nothing_new_of_a_linear_score(tmp_path: Path) -> None:
    module, batch = Linear(), images(2)
    model = load(module, tmp_path)
    gradient = weights(module).expand_as(batch)
    assert torch.allclose(heatcli.explain(model, batch, "smoothgrad", 0, samples=5).relevance, gradient)
    assert torch.allclose(heatcli.explain(model, batch, "smoothgrad-squared", 0, samples=5).relevance, gradient**2)
    assert float(heatcli.explain(model, batch, "vargrad", 0, samples=5).relevance.abs().max()) < 1e-9


def test_smoothgrad_squared_and_variance_are_moments_of_gradients_at_noisy_images(tmp_path: Path) -> None:
    model, batch = load(network("excited"), tmp_path), images(2)
    span = (batch.flatten(1).amax(1) - batch.flatten(1).amin(1)).reshape(-1, 1, 1, 1)
    noisy = [batch + 0.2 * span * one for one in smooth.noise(6, batch.shape[1:], 3)]
    each = torch.stack([heatcli.explain(model, x, "gradient", 0).relevance for x in noisy]).double()
    expected = {"smoothgrad": each.mean(0), "smoothgrad-squared": (each**2).mean(0), "vargrad": each.var(0, False)}
    for name, map_ in expected.items():
        found = heatcli.explain(model, batch, name, 0, samples=6, sigma=0.2, seed=3).relevance
        assert float((found - map_).abs().max() / map_.abs().max()) < 1e-4, name


@pytest.mark.parametrize("baseline", ["none", images(1, 12)], ids=["none", "image"])
@pytest.mark.parametrize("name", ["lrp-eps", "lrp-zb", "deeplift-reveal-cancel"])
def test_a_smoothed_method_books_everything(tmp_path: Path, name: str, baseline: str | Tensor) -> None:
    """To pixels, biases and ε on average, and what the score differs by around the image to the noise."""
    model, batch = load(network("plain"), tmp_path), images(2)
    found = heatcli.explain(model, batch, smooth.smoothed(method(name), "7:0.1"), 0, baseline)
    ledger = found.ledger
    booked = ledger.pixels + ledger.biases + ledger.absorbed + ledger.unexplained
    assert torch.allclose(booked, ledger.output - ledger.output_baseline, rtol=1e-4, atol=1e-5)
    assert float(found.unexplained["noise"].abs().max()) > 1e-3
    still = heatcli.explain(model, batch, smooth.smoothed(method(name), "2:0"), 0, baseline)
    plain = heatcli.explain(model, batch, name, 0, baseline)
    assert torch.allclose(still.relevance, plain.relevance, atol=1e-5 * float(plain.relevance.abs().max()))
    assert torch.allclose(still.ledger.biases, plain.ledger.biases, atol=1e-5)


# --- the root of Taylor -------------------------------------------------------------------------------------------


def test_taylor_at_the_nearest_root_of_a_linear_score_explains_all_of_it(tmp_path: Path) -> None:
    module, batch = Linear(), images(3)
    model = load(module, tmp_path)
    with torch.no_grad():
        score = module(batch)[:, 0]
        far = batch - 2 * score[:, None, None, None] * weights(module) / (weights(module) ** 2).sum()
        assert bool((module(far)[:, 0].sign() == -score.sign()).all()), "so there is a root between"
    found = heatcli.explain(model, batch, "taylor", 0, far, root="nearest")
    assert float(found.ledger.output_baseline.abs().max()) < 1e-5
    assert torch.allclose(found.ledger.pixels, score.double(), atol=1e-5)
    assert torch.allclose(found.relevance, weights(module) * (batch - far) / 2, atol=1e-5)


def test_taylor_takes_the_root_nearest_to_the_image(tmp_path: Path) -> None:
    """A score s³ − s of the distance s along the segment from −1.5 to 2 has roots at −1, 0 and 1."""

    class Waves(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            s = x.mean((1, 2, 3))
            return torch.stack([s * s * s - s, s * s + 0.5], 1)

    model, batch, start = load(Waves(), tmp_path), torch.full((2, 3, 16, 16), 2.0), torch.full((3, 16, 16), -1.5)
    found = heatcli.explain(model, batch, "taylor", 0, start, root="nearest")
    assert float(found.ledger.pixels[0]) == pytest.approx(2 * (2 - 1), abs=1e-4), "the slope 3s² − 1 at s = 1"
    assert float(found.ledger.output_baseline.abs().max()) < 1e-5
    never = heatcli.explain(model, batch, "taylor", 1, start, root="nearest", steps=7)
    assert float(never.ledger.output_baseline[0]) == pytest.approx(0.5), "no root: where it is closest to 0, s = 0"
    assert float(never.ledger.pixels[0]) == pytest.approx(0, abs=1e-5)
    plain = heatcli.explain(model, batch, "taylor", 0, start)
    assert float(plain.ledger.pixels[0]) == pytest.approx((3 * 1.5**2 - 1) * 3.5, rel=1e-5)


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    folder = tmp_path / "pool"
    folder.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def test_a_folder_and_a_file_are_pools(cli: Cli, tmp_path: Path, pool: Path) -> None:
    ran = cli("explain", WOLF, "--method", "deep-shap", "--baseline", pool, "--json")
    assert ran.status == 0, ran.err
    report = json.loads(ran.out)
    assert report["baseline"] == {"name": "pool", "file": str(pool), "images": 3}
    pixels = np.stack([np.asarray(Image.open(p)) for p in sorted(pool.iterdir())])
    np.savez(tmp_path / "pool.npz", pixels)
    again = json.loads(cli("explain", WOLF, "--method", "deep-shap", "--baseline", "pool.npz", "--json").out)
    assert again["ledger"]["pixels"] == pytest.approx(report["ledger"]["pixels"], rel=1e-5)


def test_smooth_goes_around_any_backward_method(cli: Cli) -> None:
    ran = cli("explain", WOLF, "--method", "guided-backprop", "--smooth", "2:0.1", "--json")
    assert ran.status == 0, ran.err
    assert '"samples":2,"sigma":0.1,"seed":0' in ran.out.replace(" ", "")
    noisy = cli("explain", WOLF, "--smooth", "2:0.1")
    assert "the mean score of the noisy images is" in noisy.err


CASES = [
    (
        ["--method", "integrated-gradients", "--param", "steps=0"],
        "steps=0 is not allowed; it must be a whole number ≥ 1",
    ),
    (["--method", "integrated-gradients", "--param", "rule=simpson"], "use gauss-legendre or riemann or riemann-left"),
    (["--method", "integrated-gradients", "--baseline", "none"], "compares with an image; give --baseline zero"),
    (["--method", "integrated-gradients", "--baseline", "empty"], "empty: is a directory; method integrated-gradients"),
    (["--method", "deep-shap", "--baseline", "empty"], "baseline empty: holds no images"),
    (["--method", "deep-shap", "--baseline", "broken"], "broken/a.png: is not an image that Pillow can read"),
    (["--method", "lrp-eps", "--baseline", "four.npy"], "four.npy: is a file of several images"),
    (["--method", "expected-gradients", "--param", "seed=-1"], "seed=-1 is not allowed"),
    (["--method", "taylor", "--param", "root=far"], "use baseline or nearest"),
    (["--method", "smoothgrad", "--baseline", "zero"], "method smoothgrad compares with nothing"),
    (["--smooth", "25"], "--smooth 25 is not of the form N:SIGMA, such as 25:0.15"),
    (["--smooth", "a:b"], "--smooth a:b is not of the form N:SIGMA"),
    (["--smooth", "0:0.1"], "samples=0 is not allowed"),
    (["--smooth", "5:-1"], "sigma=-1 is not allowed"),
    (["--method", "deep-shap", "--smooth", "5:0.1"], "method deep-shap cannot be smoothed"),
]


@pytest.mark.parametrize(("arguments", "said"), CASES, ids=[said[:40] for _, said in CASES])
def test_what_cannot_be_is_a_usage_error(cli: Cli, tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_text("no picture")
    np.save(tmp_path / "four.npy", np.zeros((2, 3, 96, 96), dtype=np.float32))
    ran = cli("explain", WOLF, *arguments)
    assert (ran.status, said in ran.err, ran.err.count("\n")) == (2, True, 1), ran.err


def test_a_pool_is_bounded_and_must_fit(tmp_path: Path) -> None:
    model, batch = load(network("plain"), tmp_path), images(1)
    np.save(tmp_path / "many.npy", np.zeros((1001, 3, 2, 2), dtype=np.uint8))
    with pytest.raises(UsageError, match="holds 1001 images; give at most 1000"):
        heatcli.explain(model, batch, "deep-shap", baseline=str(tmp_path / "many.npy"))
    with pytest.raises(UsageError, match="does not fit inputs"):
        heatcli.explain(model, batch, "deep-shap", baseline=torch.zeros(2, 3, 5, 5))
