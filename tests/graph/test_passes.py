"""Graph passes: the output stays, the books stay, only the operators change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import MODELS, SAMPLES, Cli
from networks import NETWORKS, graph_of, images, network
from torch import Tensor, nn

import heatcli
from heatcli.engine.values import output_of, values_of
from heatcli.errors import UsageError
from heatcli.graph.operator import needed_for
from heatcli.graph.passes import DEFAULT, PASSES, apply
from heatcli.graph.passes.single import single
from heatcli.images.read import read_picture

UNFOLDED = tuple(name for name in DEFAULT if name != "fold-batch-norm")


def _saved(module: nn.Module, folder: Path) -> Path:
    path = folder / "m.pt"
    torch.jit.script(module.eval()).save(str(path))
    return path


class Folding(nn.Module):
    """BatchNorm after a convolution with bias, without bias, grouped, and after a dense layer; one that must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.an = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.b, self.bn = nn.Conv2d(8, 8, 3, groups=4, bias=False), nn.BatchNorm2d(8)
        self.pre = nn.BatchNorm2d(8)
        self.c, self.cn = nn.Linear(8, 6), nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 5)
        torch.manual_seed(3)
        for name, tensor in [*self.named_parameters(), *self.named_buffers()]:
            if tensor.dtype.is_floating_point:
                nn.init.uniform_(tensor.data, 0.5, 1.5) if "var" in name else nn.init.normal_(tensor.data, std=0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.an(self.a(x)))
        y = self.bn(self.b(y)) + y[:, :, 1:-1, 1:-1]
        y = torch.relu(self.pre(y)).mean((2, 3))
        return self.head(torch.relu(self.cn(self.c(y))))


def test_folding_keeps_every_bias_entry(tmp_path: Path) -> None:
    """Folded and unfolded give the same relevance and the same bias entries, name by name, for lrp-0 and deeplift."""
    path = _saved(Folding(), tmp_path)
    batch = torch.randn(4, 3, 9, 9)
    plain = heatcli.load(path, size=9, passes=UNFOLDED)
    folded = heatcli.load(path, size=9)
    titles = [op.title for op in folded.graph(batch.shape).operators]
    assert titles.count("native_batch_norm") == 1
    assert [op.title for op in plain.graph(batch.shape).operators].count("native_batch_norm") == 4
    for method in ("lrp-0", "deeplift-rescale"):
        a, b = (heatcli.explain(model, batch, method) for model in (plain, folded))
        assert torch.allclose(a.outputs, b.outputs, atol=1e-5)
        assert torch.allclose(a.relevance, b.relevance, atol=1e-5)
        assert set(a.biases) == set(b.biases)
        for name in a.biases:
            assert torch.allclose(a.biases[name], b.biases[name], atol=1e-5), name
        assert float(b.ledger.relative_error.max()) < 1e-5


def test_folding_the_embedded_model() -> None:
    """On the real thing too: totals by bias name agree to 1e-4 of the score."""
    batch = heatcli.load().preprocess([read_picture(SAMPLES / "wolf-on-snow.png", 3).pixels])
    a, b = (heatcli.explain(heatcli.load(passes=p), batch, "lrp-0") for p in (UNFOLDED, DEFAULT))
    assert a.biases.keys() == b.biases.keys() != set()
    for name in a.biases:
        assert float((a.biases[name].sum() - b.biases[name].sum()).abs()) < 1e-4 * float(a.ledger.output)


class Gated(nn.Module):
    """SiLU and Hardswish written out, as ONNX has them."""

    def __init__(self, written_out: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 5, 1)
        self.written_out = written_out

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.written_out:
            y = torch.sigmoid(x) * x
            return (y * nn.functional.hardsigmoid(y)).mean((2, 3))
        return nn.functional.hardswish(nn.functional.silu(x)).mean((2, 3))


def test_written_out_gates_are_activations(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    batch = torch.randn(2, 3, 4, 4)
    whole, parts = (
        heatcli.load(_saved(Gated(written_out), tmp_path / name), size=4)
        for name, written_out in (("a", False), ("b", True))
    )
    a, b = heatcli.explain(whole, batch, "lrp-0"), heatcli.explain(parts, batch, "lrp-0")
    assert torch.allclose(a.relevance, b.relevance, atol=1e-5)
    assert list(b.biases) == ["conv.bias"]


class Ending(nn.Module):
    """A linear classifier that ends in an activation, with views after it."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.head = nn.Linear(12, 4)
        torch.manual_seed(0)
        nn.init.normal_(self.head.weight)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.head(x.flatten(1))).reshape(-1, 4, 1).flatten(1)


@pytest.mark.parametrize("activation", [nn.Softmax(1), nn.LogSoftmax(1), nn.Sigmoid()])
def test_what_is_explained(tmp_path: Path, activation: nn.Module) -> None:
    """The logit by default; what the artifact returns if asked; the logit less the mean of all as DeepLIFT has it."""
    module = Ending(activation)
    path, batch = _saved(module, tmp_path), torch.randn(3, 3, 2, 2)
    logits = module.head(batch.flatten(1)).detach()
    returned = activation(logits)
    chances = returned.exp() if isinstance(activation, nn.LogSoftmax) else returned
    plain = tuple(name for name in DEFAULT if name != "logit")
    wanted = {
        "logit": (DEFAULT, logits),
        "centred-logit": ((*DEFAULT, "centre-logits"), logits - logits.mean(1, keepdim=True)),
        "output" if isinstance(activation, nn.LogSoftmax) else "probability": (plain, returned),
    }
    for quantity, (passes, scores) in wanted.items():
        result = heatcli.explain(heatcli.load(path, size=2, passes=passes), batch, "lrp-0", target=1)
        assert result.quantity == quantity
        assert torch.allclose(result.outputs, scores, atol=1e-5)
        ledger = result.ledger
        assert torch.allclose(ledger.pixels + ledger.biases, ledger.output, atol=1e-5)
        if quantity != "centred-logit":
            assert torch.allclose(result.probabilities, chances, atol=1e-5)


class _Written(nn.Module):
    """A scaled value, written by `write` into a fresh one, times 0.5."""

    def __init__(self, write: str) -> None:
        super().__init__()
        self.write, self.head = write, nn.Linear(16, 4)
        self.register_buffer("mask", torch.arange(16).reshape(4, 4) % 3 > 0)

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean(1)[:, :4, :4] * 2
        if self.write == "where":
            x = torch.where(self.mask, x, torch.full_like(x, 0.4))
        elif self.write == "masked_fill":
            x = x.masked_fill(self.mask, 0.4)
        else:
            x = nn.functional.pad(x[:, 1:3, 1:3], (1, 1, 1, 1), value=0.4)
        return self.head((x * 0.5).flatten(1))


@pytest.mark.parametrize("write", ["where", "masked_fill", "pad"])
def test_scales_do_not_move_past_constants_in_between(write: str) -> None:
    """A constant that is written between two factors is multiplied by the second alone."""
    torch.manual_seed(0)
    net, x = _Written(write).eval(), torch.rand(2, 3, 4, 4)
    graph = graph_of(net, x)
    torch.testing.assert_close(output_of(apply(graph, ["join-scales"]), x), net(x))


class _Masked(nn.Module):
    """Probabilities without those of some classes."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 4)
        self.register_buffer("mask", torch.tensor([False, False, True, False]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.head(x.flatten(1)) - 5, 1).masked_fill(self.mask, 0.0)


def test_masked_probabilities_are_no_logits(tmp_path: Path) -> None:
    """A 0 among probabilities is the least score; among negative logits it would be the highest."""
    torch.manual_seed(0)
    net, x = _Masked().eval(), torch.rand(2, 3, 2, 2)
    torch.jit.script(net).save(str(tmp_path / "m.pt"))
    found = heatcli.explain(heatcli.load(tmp_path / "m.pt", size=(2, 2)), x, "gradient")
    torch.testing.assert_close(found.outputs, net(x))
    assert found.target.index.tolist() == net(x).argmax(1).tolist()


def test_centring_is_deeplifts_normalisation(tmp_path: Path) -> None:
    """Contributions to the centred logit are the contributions to the logit less their mean over all classes."""
    path, batch = _saved(Ending(nn.Softmax(1)), tmp_path), torch.randn(2, 3, 2, 2)
    model = heatcli.load(path, size=2)
    each = [heatcli.explain(model, batch, "deeplift-rescale", target=c).relevance for c in range(4)]
    centred = heatcli.load(path, size=2, passes=(*DEFAULT, "centre-logits"))
    found = heatcli.explain(centred, batch, "deeplift-rescale", target=2).relevance
    assert torch.allclose(found, each[2] - torch.stack(each).mean(0), atol=1e-6)


def test_output_and_passes_on_the_command_line(cli: Cli) -> None:
    import json

    eight = [SAMPLES / "digits" / "8-a.png", "--model", MODELS / "digits.onnx", "--json"]
    report = json.loads(cli("explain", *eight, "--output", "probability").out)
    assert report["target"]["quantity"] == "probability"
    assert report["target"]["score"] == pytest.approx(report["target"]["probability"], abs=1e-6)
    report = json.loads(cli("explain", *eight, "--output", "centred-logit", "--pass", "fold-batch-norm").out)
    assert report["target"]["quantity"] == "centred-logit"
    assert "fold-batch-norm" in report["model"]["passes"]
    ran = cli("explain", *eight, "--pass", "fold-batchnorm")
    assert ran.status == 2
    assert "did you mean 'fold-batch-norm'" in ran.err
    ran = cli("explain", *eight, "--output", "odds")
    assert ran.status == 2
    assert "unknown output 'odds'" in ran.err


EXACT = [name for name in PASSES if name != "mixed-precision"]


@pytest.mark.parametrize("left_out", EXACT)
def test_every_pass_is_optional(left_out: str) -> None:
    """Leaving any one out changes neither the scores' order nor the ledger's balance."""
    batch = torch.rand(2, 1, 28, 28)
    names = tuple(name for name in EXACT if name != left_out)
    result = heatcli.explain(heatcli.load(MODELS / "digits.onnx", passes=names), batch, "lrp-0")
    whole = heatcli.explain(heatcli.load(MODELS / "digits.onnx"), batch, "lrp-0")
    assert torch.equal(result.outputs.argmax(1), whole.outputs.argmax(1))
    assert float(result.ledger.relative_error.max()) < 1e-5
    with pytest.raises(UsageError, match="unknown graph pass 'x'"):
        heatcli.load(MODELS / "digits.onnx", passes=("x",))


def test_two_captures_serve_all_batch_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After two captures every other batch size is derived, and gives what single images give."""
    module = Folding().eval()
    model = heatcli.load(_saved(module, tmp_path), size=9)
    captured: list[tuple[int, ...]] = []
    original = model.network.capture
    monkeypatch.setattr(model.network, "capture", lambda shape, *rest: captured.append(shape) or original(shape, *rest))
    batch = torch.randn(7, 3, 9, 9)
    singles = [heatcli.explain(model, batch[i : i + 1], "lrp-0").relevance for i in range(7)]
    for n in (7, 5, 2, 3):
        result = heatcli.explain(model, batch[:n], "lrp-0")
        assert torch.allclose(result.relevance, torch.cat(singles[:n]), atol=1e-5)
        assert torch.allclose(result.outputs, module(batch[:n]), atol=1e-5)
    assert captured == [(1, 3, 9, 9), (2, 3, 9, 9)]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 5e-2), (torch.float16, 5e-3)]
)
def test_dtypes(tmp_path: Path, dtype: torch.dtype, tolerance: float) -> None:
    """An artifact is run in its own dtype; the ledger adds up in float64."""
    module = Folding().eval().to(dtype)
    model = heatcli.load(_saved(module, tmp_path), size=9)
    batch = torch.randn(3, 3, 9, 9)
    result = heatcli.explain(model, batch, "lrp-eps")
    assert result.relevance.dtype == dtype
    assert torch.allclose(result.outputs, module(batch.to(dtype)), rtol=1e-2, atol=2e-3)
    assert result.ledger.pixels.dtype == torch.float64
    assert float(result.ledger.relative_error.max()) < tolerance


def test_volumes_without_a_batch_do_not_lie_channels_last() -> None:
    """The pool of a volume [C, D, H, W] takes no such memory; the channels are the images here."""

    class Pool(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.max_pool3d(super().forward(x), 2, 1).mean((2, 3))

    module, batch = Pool(3, 5, 3), images(4)
    graph = graph_of(module, batch)
    torch.testing.assert_close(values_of(graph, batch)[graph.output], module(batch).detach())


class Beside(nn.Module):
    """Scales the channels of all images side by side: they are not kept apart."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = network("plain")

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return self.plain((x.reshape(1, n * c, h, w) * 2).reshape(n, c, h, w))


def test_the_graph_of_one_image_among_copies_of_itself() -> None:
    """Its output is the first row; guards see the same copies; its first layers are still the first."""
    module, batch = Beside(), images(1)
    graph = graph_of(module, images(2), ())
    reached = graph.operators[3].name
    guard = replace(graph, operators=needed_for(reached, graph.operators), output=reached)
    one = single(graph)
    assert not graph.keeps_images_apart
    assert (one.input_shape, one.output_shape, one.copies) == ((1, *batch.shape[1:]), (1, 5), 2)
    both = batch.expand(2, -1, -1, -1)
    torch.testing.assert_close(output_of(one, batch), module(both)[:1].detach())
    ((guard, _),) = single(replace(graph, guards=((guard, 1.0),))).guards
    torch.testing.assert_close(output_of(guard, batch), values_of(graph, both)[reached])
    first = {op.name for op in graph.operators if op.first}
    assert first
    assert {op.name for op in one.operators if op.first} == first


def test_what_is_marked_as_nonnegative_is() -> None:
    """On any image: what ReLUs give, and means, maxima, sums and layouts of that; nothing behind a layer."""
    for name in NETWORKS:
        graph = apply(graph_of(network(name), images(2)), ())
        values = values_of(graph, 10 * images(2, 7))
        marked = {op.name: op for op in graph.operators if op.nonnegative}
        for op in marked.values():
            assert float(values[op.name].min()) >= 0, (name, op.name)
        assert all(op.nonnegative for op in graph.operators if op.title == "relu")
        assert not any(op.role in ("convolution", "dense") for op in marked.values())
        assert all(marked.keys() >= set(op.sources) for op in marked.values() if op.title in ("cat", "mean"))
    inner = apply(graph_of(network("hourglass"), images(2)), ())
    assert {"relu", "max_pool2d_with_indices"} <= {op.title for op in inner.operators if op.nonnegative}
