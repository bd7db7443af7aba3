"""Activation maximisation against closed forms: a linear score has its best picture on paper."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import MODELS
from networks import load, network, save
from torch import Tensor, nn

import heatcli
from heatcli.artifact.sidecar import Input
from heatcli.errors import UsageError
from heatcli.model.model import Model
from heatcli.prototype import rbm
from heatcli.prototype.ascent import Search, State, ascend, total_variation
from heatcli.prototype.job import search
from heatcli.prototype.priors import L2, RBM, Decoder, prior, run

SHAPE = (2, 6, 5)


class Linear(nn.Module):
    """w·x + b with weights `rows` [outputs, inputs], laid out as `shape`."""

    def __init__(self, rows: Tensor, shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.fc = nn.Linear(rows.shape[1], rows.shape[0])
        self.layout = nn.Unflatten(1, shape) if shape else nn.Identity()
        with torch.no_grad():
            self.fc.weight.copy_(rows)

    def forward(self, x: Tensor) -> Tensor:
        return self.layout(self.fc(x.flatten(1)))


def weights(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def last(model: Model, how: Search, chosen: object, target: int = 1) -> State:
    return list(ascend(model, torch.tensor([target]), chosen, how))[-1]  # type: ignore[arg-type]


@pytest.fixture
def linear(tmp_path: Path) -> Model:
    model = load(Linear(weights(3, 60)), tmp_path, shape=SHAPE)
    model.pictures.input = Input(size=(6, 5), channels=2, mean=0.4, std=0.5)
    return model


HOW = Search(objective="score", steps=400, rate=0.2)


@pytest.mark.parametrize("start", ["noise", "zeros"])
def test_l2_on_a_linear_score(linear: Model, start: str) -> None:
    """max w·I + b − λ‖I‖² is at I = w/2λ, wherever the search starts."""
    state = last(linear, Search(objective="score", steps=400, rate=0.2, start=start), L2(2.0))
    best = (weights(3, 60)[1] / 4).reshape(1, *SHAPE)
    assert torch.allclose(state.picture, best, atol=1e-3)
    assert state.norm.item() == pytest.approx(best.norm().item(), rel=1e-3)
    assert state.prior.item() == pytest.approx(-2 * best.square().sum().item(), rel=1e-3)


def test_an_expert_without_hidden_units_is_a_gaussian(linear: Model) -> None:
    """log p(x) = −‖x − b‖²/2σ² of pixels x = s·I + m: the best picture is x = b + σ²w/(λs)."""
    mean = torch.rand(60, generator=torch.Generator().manual_seed(4))
    expert = rbm.Expert(SHAPE, True, 0.5, torch.zeros(60, 1), mean, torch.zeros(1))
    state = last(linear, HOW, RBM(3.0, expert, linear, Path("none")))
    best = mean + 0.25 * weights(3, 60)[1] / (3 * 0.5)
    assert torch.allclose(linear.pictures.pixels(state.picture).flatten(), best, atol=1e-3)


def test_a_linear_decoder(linear: Model, tmp_path: Path) -> None:
    """S = w·(Az + a − m)/s − λ‖z‖² has its best code at z = Aᵀw/2λs."""
    matrix = weights(60, 4, seed=1)
    folder = tmp_path / "decoder"
    folder.mkdir()
    net = Linear(matrix, SHAPE)
    torch.jit.script(net).save(str(folder / "d.pt"))
    with pytest.raises(UsageError, match=r"d.pt: does not say how long its codes are; give --code N"):
        prior(linear, f"decoder:{folder / 'd.pt'}")
    chosen = prior(linear, f"decoder:{folder / 'd.pt'}", 4.0, 4)
    assert isinstance(chosen, Decoder)
    state = last(linear, Search(objective="score", steps=600, rate=0.3), chosen)
    code = weights(3, 60)[1] @ matrix / (8 * 0.5)
    with torch.no_grad():
        assert torch.allclose(linear.pictures.pixels(state.picture), net(code[None]), atol=1e-2)
    assert state.prior.item() == pytest.approx(-4 * code.square().sum().item(), rel=1e-2)


@pytest.mark.parametrize("form", ["scripted", "onnx-old", "pt2"])
def test_every_format_gives_the_same_prototype(form: str, tmp_path: Path) -> None:
    """The gradient is of the graph, so TorchScript, ONNX and .pt2 agree with autograd through the module itself."""
    net = network("residual")
    model = load(net, tmp_path, form)
    found = search(model, torch.tensor([0, 3]), L2(0.05), Search(steps=8))
    free = found.trace  # the trace starts at the noise that the seed gives
    assert free["score"].shape == (2, 9)
    x = torch.stack([0.1 * torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(t)) for t in (0, 3)])
    x.requires_grad_()
    optimiser = torch.optim.Adam([x], lr=0.05, maximize=True)
    for step in range(8):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 + torch.cos(torch.tensor(step / 8 * torch.pi))) / 2
        score = net(x)[[0, 1], [0, 3]]
        assert torch.allclose(score, found.trace["score"][:, step], atol=1e-3)
        optimiser.zero_grad()
        (score - 0.05 * x.square().flatten(1).sum(1)).sum().backward()
        optimiser.step()
    assert torch.allclose(x, found.last.picture, atol=1e-3)


def test_the_same_seed_gives_the_same_picture_alone_or_among_all() -> None:
    model = heatcli.load(MODELS / "digits.onnx")
    how = Search(steps=3, jitter=2, seed=5)
    every = search(model, torch.arange(10), L2(0.1), how)
    again = search(model, torch.arange(10), L2(0.1), how)
    alone = search(model, torch.tensor([7]), L2(0.1), how)
    other = search(model, torch.tensor([7]), L2(0.1), Search(steps=3, jitter=2, seed=6))
    assert torch.equal(every.pixels, again.pixels)
    assert torch.allclose(every.pixels[7], alone.pixels[0], atol=1e-5)
    assert not torch.allclose(alone.pixels, other.pixels, atol=1e-2)


def test_log_probability_follows_the_final_activation(tmp_path: Path) -> None:
    """Softmax, sigmoid or nothing (then softmax), as the artifact ends."""
    net = Linear(weights(3, 60))
    x = weights(1, *SHAPE, seed=2)
    logits = net(x)[0].detach()
    for ending, expected in (
        (nn.Identity(), logits.log_softmax(0)),
        (nn.Softmax(1), logits.log_softmax(0)),
        (nn.LogSoftmax(1), logits.log_softmax(0)),
        (nn.Sigmoid(), logits.sigmoid().log()),
    ):
        path = save(nn.Sequential(net, ending), tmp_path, shape=SHAPE)
        model = heatcli.load(path, size=(6, 5), channels=2)
        state = next(ascend(model, torch.tensor([2]), L2(0), Search(start="zeros", steps=1)))
        zero = net(torch.zeros(1, *SHAPE))[0].detach()
        assert state.score.item() == pytest.approx(zero[2].item(), abs=1e-5)
        from heatcli.prototype.ascent import log_probability

        found = log_probability(model, run(model, x), torch.tensor([2]), 1)
        assert found.item() == pytest.approx(expected[2].item(), abs=1e-5), ending


def test_regularisers_do_what_they_say(linear: Model) -> None:
    """Each makes a prototype that is smoother, or stays in range; without them it is the plain one."""
    plain = last(linear, HOW, L2(0.5))
    smooth = last(linear, Search(objective="score", steps=400, rate=0.2, tv=3), L2(0.5))
    blurred = last(linear, Search(objective="score", steps=400, rate=0.2, blur=1), L2(0.5))
    variation = [total_variation(linear.pictures.pixels(s.picture)).item() for s in (plain, smooth, blurred)]
    assert variation[1] < 0.5 * variation[0]
    assert variation[2] < 0.9 * variation[0]
    clipped = linear.pictures.pixels(
        last(linear, Search(objective="score", steps=50, rate=0.2, clip=True), L2(0.1)).picture
    )
    assert float(clipped.min()) >= -1e-6
    assert float(clipped.max()) <= 1 + 1e-6
    assert float(linear.pictures.pixels(plain.picture).max()) > 1


def test_scales_start_small(tmp_path: Path) -> None:
    """With three scales the first third of the steps changes 4×4 pixels alone: the picture is smooth, then sharp."""
    model = load(network("plain"), tmp_path)
    states = list(ascend(model, torch.tensor([0]), L2(0.01), Search(steps=30, scales=3, start="zeros", rate=0.3)))
    assert [s.picture.shape[-1] for s in states] == [16] * 31
    rough = [total_variation(s.picture).item() / (s.norm.item() + 1e-9) for s in states]
    assert rough[9] < rough[19] < rough[30]


def test_starts(linear: Model, tmp_path: Path) -> None:
    from heatcli.images.mean import write_mean

    mean = torch.rand(2, 6, 5).numpy()
    write_mean(tmp_path / "m.npz", mean, 3)
    state = next(ascend(linear, torch.tensor([0]), L2(1), Search(start=f"mean:{tmp_path / 'm.npz'}")))
    assert torch.allclose(linear.pictures.pixels(state.picture)[0], torch.from_numpy(mean), atol=1e-5)
    for start, text in (
        ("mean", "names no mean image; give --start mean:FILE"),
        ("nose", "--start is none of noise, zeros, mean, mean:FILE, nor an image: nose: no such image file"),
    ):
        with pytest.raises(UsageError, match=text):
            next(ascend(linear, torch.tensor([0]), L2(1), Search(start=start)))


def test_an_artifact_that_takes_two_at_a_time(tmp_path: Path) -> None:
    """Three classes go through in two parts, the last filled up; the prototypes are the same."""
    model, fixed = (load(network("plain"), tmp_path) for _ in range(2))
    fixed.network.batch_size = 2
    found = [search(m, torch.tensor([0, 2, 4]), L2(0.05), Search(steps=5, jitter=1)) for m in (model, fixed)]
    assert torch.allclose(found[0].pixels, found[1].pixels, atol=1e-5)
    assert torch.allclose(found[0].trace["log_probability"], found[1].trace["log_probability"], atol=1e-4)
