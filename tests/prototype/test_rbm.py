"""The expert: its density by brute force, and training that finds the patterns it is shown."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli
from PIL import Image

from heatcli.errors import UsageError
from heatcli.prototype import rbm


def expert(shape: tuple[int, int, int] = (1, 2, 3), hidden: int = 4, whole: bool = True) -> rbm.Expert:
    g = torch.Generator().manual_seed(0)
    v = shape[0] * shape[1] * shape[2]
    draw = [torch.randn(s, generator=g, dtype=torch.float64) for s in ((v, hidden), (v,), (hidden,))]
    return rbm.Expert(shape, whole, 0.7, *draw)


def test_log_density_is_the_sum_over_all_hidden_states() -> None:
    e = expert()
    v = torch.randn(5, 6, dtype=torch.float64)
    total = torch.zeros(5, dtype=torch.float64)
    for state in product((0.0, 1.0), repeat=4):
        h = torch.tensor(state, dtype=torch.float64)
        energy = (v - e.visible).square().sum(1) / (2 * 0.7**2) - e.hidden @ h - v @ e.weight @ h / 0.7
        total += torch.exp(-energy)
    assert torch.allclose(e.log_density(v.reshape(5, 1, 2, 3)), total.log())


def test_its_gradient() -> None:
    e = expert()
    x = torch.randn(3, 1, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(e.log_density, (x,))
    patches = expert(hidden=3, whole=False)
    y = torch.randn(2, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(patches.log_density, (y,))


def test_patches_are_all_counted() -> None:
    """A 2×3 expert on a 3×3 picture: two patches one below the other, each pixel's share 1/6 of a patch's."""
    e = expert(whole=False)
    x = torch.randn(1, 1, 3, 3, dtype=torch.float64)
    whole = rbm.Expert(e.shape, True, e.sigma, e.weight, e.visible, e.hidden)
    both = whole.log_density(x[:, :, :2]) + whole.log_density(x[:, :, 1:])
    assert torch.allclose(e.log_density(x), both / 6)


@pytest.mark.parametrize("persistent", [True, False])
def test_training_finds_the_patterns(persistent: bool) -> None:
    """Shown two patterns in noise, it draws samples near one or the other, and calls them likelier than others."""
    g = torch.Generator().manual_seed(1)
    patterns = torch.tensor([[1, 1, 0, 0, 1, 1, 0, 0, 1.0], [0, 0, 1, 1, 0, 0, 1, 1, 0.0]])
    pictures = patterns[torch.randint(2, (2000,), generator=g)] + 0.1 * torch.randn(2000, 9, generator=g)
    how = rbm.Training(hidden=8, epochs=30, cd=5, sigma=0.3, rate=0.01, persistent=persistent)
    e = rbm.untrained(pictures.reshape(-1, 1, 3, 3), True, how)
    epochs = list(rbm.train(e, pictures.reshape(-1, 1, 3, 3), how))
    assert epochs[-1].error < 0.3 * pictures.var().item()
    drawn = e.samples(40, steps=200).flatten(1)
    assert torch.cdist(drawn, patterns).amin(1).median() < 0.4
    swapped = patterns.reshape(-1, 1, 3, 3).transpose(-2, -1)
    assert (e.log_density(patterns.reshape(-1, 1, 3, 3)) > e.log_density(swapped)).all()


def test_files_and_their_errors(tmp_path: Path) -> None:
    e = expert()
    rbm.write(tmp_path / "e.npz", e)
    again = rbm.read(tmp_path / "e.npz")
    assert (again.shape, again.whole, again.sigma) == (e.shape, e.whole, pytest.approx(e.sigma))
    assert torch.allclose(again.weight.double(), e.weight, atol=1e-2)
    with pytest.raises(UsageError, match=r"no.npz: no such expert; heatcli fit-expert"):
        rbm.read(tmp_path / "no.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK no")
    with pytest.raises(UsageError, match=r"bad.npz: is no expert"):
        rbm.read(tmp_path / "bad.npz")
    arrays = {"weight": np.zeros((5, 2)), "visible": np.zeros(6), "hidden": np.zeros(2)}
    np.savez(tmp_path / "odd.npz", **arrays, shape=np.array([1, 2, 3]), sigma=1.0, whole=True)
    with pytest.raises(UsageError, match="do not fit together"):
        rbm.read(tmp_path / "odd.npz")


def test_divergence_is_told() -> None:
    pictures = torch.rand(200, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    how = rbm.Training(hidden=16, epochs=3, sigma=0.05, rate=1e38, batch=20)
    with pytest.raises(UsageError, match="training diverged; give a smaller --rate"):
        list(rbm.train(rbm.untrained(pictures, True, how), pictures, how))


def test_fit_expert_as_a_command(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    g = np.random.default_rng(0)
    for i in range(30):
        Image.fromarray(g.integers(0, 255, (12, 14), dtype=np.uint8)).save(folder / f"{i}.png")
    (folder / "broken.png").write_bytes(b"no")
    ran = cli("fit-expert", folder, "-o", "e.npz", "--patch", "5", "--limit", "200", "--epochs", "2", "--hidden", "7")
    assert ran.status == 1, ran.err
    assert "broken.png: is not an image" in ran.err
    found = rbm.read(tmp_path / "e.npz")
    assert (found.shape, found.whole, found.hidden.shape) == ((1, 5, 5), False, (7,))
    (folder / "broken.png").unlink()
    ran = cli("fit-expert", folder, "-o", "w.npz", "--size", "6x8", "--epochs", "1", "--channels", "3")
    assert ran.status == 0, ran.err
    assert rbm.read(tmp_path / "w.npz").shape == (3, 6, 8)
    assert (tmp_path / "w.samples.png").stat().st_size > 1000
    for arguments, text in (
        (["-o", "e.npz"], "give either --size HEIGHTxWIDTH, for whole pictures, or --patch P"),
        (["-o", "e.pt", "--patch", "5"], "an expert is an .npz file"),
        (["-o", "e.npz", "--patch", "0"], "--patch 0 is not allowed"),
        (["-o", "e.npz", "--patch", "50"], "0 pictures are too few to learn from"),
        (["-o", "e.npz", "--patch", "5", "--sigma", "0"], "--sigma 0 is not allowed"),
    ):
        ran = cli("fit-expert", folder, *arguments)
        assert ran.status == 2
        assert text in ran.err
