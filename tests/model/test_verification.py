"""What is explained is what is deployed: the captured graph is compared with the artifact on its own runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from networks import graph_of, images, load, network
from torch import Tensor, nn

import heatcli
from heatcli.errors import ModelError, OtherBranchError
from heatcli.graph import passes
from heatcli.graph.operator import Graph, bypassed
from heatcli.model.capture import Capture
from heatcli.model.verification import in_order_of, verify
from heatcli.run.work.shipping import Recipe

pytestmark = pytest.mark.filterwarnings("ignore")
SIZE = (12, 12)


class Branching(nn.Module):
    """Doubles pictures whose sum is above 0."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 0):
            x = x * 2
        return self.conv(x).mean((2, 3))


class Conditional(Branching):
    """The same decision as an operator, `torch.cond`."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return torch.cond(x.sum() > 0, lambda a: a * 2, lambda a: a.relu(), (y,)).mean((2, 3))


class Noisy(Branching):
    """Adds noise."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x + torch.rand_like(x)).mean((2, 3))


class Counting(Branching):
    """Scales by the number of times it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.conv(x).mean((2, 3)) * self.calls


class Number(Branching):
    """Divides by the picture's largest value, as a Python number."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3)) / float(x.abs().max())


class Masked(Branching):
    """Takes the mean of the positive values alone."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return torch.stack([y[:, i][y[:, i] > 0].mean() for i in range(4)])[None]


class Spectral(nn.Module):
    """Adds a value made of complex numbers to the picture's own means, which relevance would reach."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.view_as_real(x.to(torch.complex64)).sum(-1).mean((2, 3)) + x.mean((2, 3))


class Thresholded(Branching):
    """Says whether a channel's mean is positive."""

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv(x).mean((2, 3)) > 0).to(torch.float32)


def _scripted(net: nn.Module, path: Path) -> Path:
    torch.jit.script(net.eval()).save(str(path))
    return path


def _load(path: Path, **more: object) -> heatcli.Model:
    return heatcli.load(path, size=SIZE, channels=3, **more)


def _exported(net: nn.Module, path: Path) -> Path:
    dynamic = ({0: torch.export.Dim("batch", min=1)},)
    torch.export.save(torch.export.export(net.eval(), (torch.rand(2, 3, *SIZE),), dynamic_shapes=dynamic), str(path))
    return path


@pytest.mark.parametrize(("kind", "save"), [(Branching, _scripted), (Conditional, _exported)])
def test_each_picture_is_explained_by_the_branch_that_it_takes(
    kind: type[nn.Module], save: Callable[[nn.Module, Path], Path], tmp_path: Path
) -> None:
    net = kind()
    model = _load(save(net, tmp_path / ("net.pt2" if save is _exported else "net.pt")))
    batch = torch.cat([torch.rand(2, 3, *SIZE), -torch.rand(1, 3, *SIZE), torch.rand(1, 3, *SIZE)])
    result = heatcli.explain(model, batch, "gradient", target=1)
    for i, x in enumerate(batch):
        leaf = x[None].requires_grad_()
        (own,) = torch.autograd.grad(net(leaf)[0, 1], leaf)
        torch.testing.assert_close(result.outputs[i], net(x[None])[0])
        torch.testing.assert_close(result.relevance[i], own[0])
    assert any("decides by the picture" in note for note in model.notes)


def test_a_baseline_on_the_other_branch_is_refused(tmp_path: Path) -> None:
    model = _load(_scripted(Branching(), tmp_path / "net.pt"))
    with pytest.raises(OtherBranchError, match="decides by the picture"):
        heatcli.explain(model, torch.rand(1, 3, *SIZE), "deeplift-rescale", target=1, baseline=-torch.ones(3, *SIZE))


@pytest.mark.parametrize(
    ("net", "why"),
    [
        (Noisy, r"net.pt: draws random numbers \(aten.rand_like.default\); export it in evaluation mode"),
        (Counting, "net.pt: gives two answers for one input, .* keeps a state from call to call"),
        (Number, r"net.pt: takes a value of the picture out of the graph as a number \(operator max_\d+"),
        (Masked, r"net.pt: the shape of its operator index_\d+ depends on the picture"),
        (Thresholded, "net.pt: its output depends on the image only by way of whole numbers or comparisons"),
        (Spectral, r"net.pt: computes with complex numbers \(operator to_copy_\d+\), which heatcli does not explain"),
    ],
)
def test_what_cannot_be_explained_truly_is_refused(net: type[nn.Module], why: str, tmp_path: Path) -> None:
    path = _scripted(net(), tmp_path / "net.pt")
    with pytest.raises(ModelError, match=why):
        heatcli.explain(_load(path), torch.rand(1, 3, *SIZE), "lrp-eps", target=0)


def test_dropout_that_was_left_on_is_refused(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(400, 3)).train()
    path = tmp_path / "net.pt"
    torch.jit.trace(net, torch.rand(1, 3, *SIZE), check_trace=False).save(str(path))
    with pytest.raises(ModelError, match="draws random numbers"):
        heatcli.explain(_load(path), torch.rand(1, 3, *SIZE), "lrp-eps")


def _without_last_relu(graph: Graph) -> Graph:
    """A broken pass: it drops the last ReLU."""
    last = [op.name for op in graph.operators if op.title == "relu"][-1]
    return bypassed(graph, lambda op, _: op.name == last)


@pytest.mark.parametrize("form", ["scripted", "traced", "pt2", "onnx-old", "onnx-new"])
def test_another_function_is_refused_unless_it_is_asked_for(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x = network("residual"), images(1)
    model = load(net, tmp_path, form)
    right = heatcli.explain(model, x, "lrp-0", target=0).verified
    assert right is not None
    assert right.agrees
    assert right.error < 1e-5
    monkeypatch.setitem(passes.PASSES, "drop-identities", _without_last_relu)
    with pytest.raises(ModelError, match=r"is another function: an output is off .* first at .*; --unverified goes on"):
        heatcli.explain(load(net, tmp_path, form), x, "lrp-0", target=0)
    model = load(net, tmp_path, form)
    model.capture.unverified = True
    result = heatcli.explain(model, x, "lrp-0", target=0)
    assert any("is explained unverified" in note for note in model.notes)
    elsewhere = Recipe.of(model).model("cpu")  # as a worker process makes the model
    assert torch.equal(heatcli.explain(elsewhere, x, "lrp-0", target=0).relevance, result.relevance)
    wrong = result.verified
    assert wrong is not None
    assert not wrong.agrees
    assert wrong.error > 1e-3


def test_what_its_runtime_cannot_run_is_said_to_be_compared_with_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime has no convolution in float64."""
    monkeypatch.setenv("HEATCLI_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "net.onnx"
    torch.onnx.export(Branching().conv.double(), (torch.rand(1, 3, *SIZE).double(),), str(path), dynamo=False)
    for _ in range(2):  # captured, and from the cache
        model = heatcli.load(path, cache=True)
        assert heatcli.explain(model, torch.rand(1, 3, *SIZE), "lrp-0", target=0).verified is None
        assert any(
            "net.onnx is not compared with what is deployed: ONNX Runtime cannot" in note for note in model.notes
        )


def _steep(x: Tensor) -> Tensor:
    return (x.flatten(1).sum(1, keepdim=True) * 1e4).sin()


def test_rounding_that_the_network_makes_large_is_no_other_function() -> None:
    """The slope is 1e4: what rounds the input changes the output by 1e-3, of the graph as of the runtime."""
    x = images(2).double().float()
    graph = graph_of(_steep, x)
    exact = verify(graph, lambda batch: _steep(batch.double()).float(), [x], "float64")
    assert exact.error > 1e-4
    assert exact.agrees
    assert not verify(graph, lambda batch: _steep(batch) * 1.01, [x / 1e4], "another").agrees


def test_a_known_artifact_is_not_compared_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEATCLI_CACHE", str(tmp_path / "cache"))
    path, x = _scripted(Branching().conv, tmp_path / "net.pt"), torch.rand(1, 3, *SIZE)
    first = heatcli.explain(_load(path, cache=True), x, "lrp-0", target=0)
    model = _load(path, cache=True)
    monkeypatch.setattr(Capture, "_verified", lambda *_: pytest.fail("compared again"))
    assert heatcli.explain(model, x, "lrp-0", target=0).verified == first.verified


def test_positions_of_a_runtime_are_compared_in_their_own_order() -> None:
    """Another order is no difference, and a few positions elsewhere are told; a wrong number remains."""
    torch.manual_seed(0)
    found = torch.rand(1, 6, 40, dtype=torch.float64)
    turned = found[:, :, torch.randperm(40)]
    ordered, elsewhere = in_order_of(found, turned)
    assert (float((ordered - found).abs().max()), elsewhere) == (0.0, 0.0)
    slightly = turned + 1e-3 * torch.rand(1, 6, 40)
    ordered, elsewhere = in_order_of(found, slightly)
    assert elsewhere == 0.0
    assert 1e-4 < float((ordered - found).abs().max()) < 2e-3
    few = torch.where(torch.arange(40) < 2, torch.rand(1, 6, 40), turned)
    ordered, elsewhere = in_order_of(found, few)
    assert (float((ordered - found).abs().max()), elsewhere) == (0.0, 2 / 40)
    scaled = turned * torch.tensor([1, 1, 1, 1, 1, 1.1]).reshape(1, 6, 1)
    ordered, elsewhere = in_order_of(found, scaled)
    assert torch.equal(ordered, scaled)
    assert elsewhere == 0.0
