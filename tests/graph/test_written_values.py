"""Whatever a module writes in place, its graph computes what the module computes, on another input than the example.

The truth is the module itself, run eagerly.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import heatcli

Write = Callable[[nn.Module, Tensor], Tensor]
N, C, H, W = 2, 4, 8, 8


class Writer(nn.Module):
    """A convolution, then `write` on its output [N, C, H, W], then the mean and a dense layer."""

    def __init__(self, write: Write) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, C, 3, padding=1)
        self.pos = nn.Parameter(torch.randn(1, C, H, W))
        self.register_buffer("table", torch.randn(C, H, W))
        self.register_buffer("count", torch.zeros(()))
        self.fc = nn.Linear(C * H * W, 3)
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.fc(self.write(self, y).reshape(x.shape[0], -1))


def clone_of_parameter(net: nn.Module, y: Tensor) -> Tensor:
    o = net.pos.repeat(y.shape[0], 1, 1, 1)
    o += y
    return o + y.relu()


def detached_beside_memory_as_it_lies(net: nn.Module, y: Tensor) -> Tensor:
    y = y.as_strided(y.shape, (C * H * W, H * W, 1, H))
    o = y.detach().clone()  # `detach` is a word about training: the function goes through it
    o[:, 1:3] = y[:, :2]
    return o + y


def moved_up(net: nn.Module, y: Tensor) -> Tensor:
    y[:, :, :-1] = y[:, :, 1:]  # the rows that are read lie after those that are written
    return y


def expanded_parameter(net: nn.Module, y: Tensor) -> Tensor:
    o = net.pos.expand_as(y).clone()
    o.mul_(y).add_(y, alpha=0.5)
    return o


def shift(net: nn.Module, y: Tensor) -> Tensor:
    o = torch.zeros_like(y)
    o[:, :, 1:] = y[:, :, :-1]
    o[:, :1, :-1] = y[:, :1, 1:]
    return o


def slice_of_itself(net: nn.Module, y: Tensor) -> Tensor:
    y = y.clone()
    y[:, :2] = y[:, 2:] * 2
    y[..., 3].add_(y[..., 4])
    return y


def view_then_base(net: nn.Module, y: Tensor) -> Tensor:
    y = y * 1.5
    flat = y.view(y.shape[0], -1)
    part = flat[:, 5:40]
    part.mul_(2)
    y.mul_(y)
    flat[:, :7] += 1
    return y + part.sum(1)[:, None, None, None]


def permuted(net: nn.Module, y: Tensor) -> Tensor:
    y = y + 0
    y.permute(0, 2, 3, 1)[..., 1].copy_(net.table[0])
    y.transpose(2, 3)[:, :, 2] = 3.0
    return y


def chunks(net: nn.Module, y: Tensor) -> Tensor:
    y = y.clone()
    a, b = y[:, :2], y[:, 2:]
    a.sigmoid_()
    b.tanh_()
    halves = y.split([3, 1], 1)
    return y + halves[1].tanh()


def indexed(net: nn.Module, y: Tensor) -> Tensor:
    o = torch.zeros(y.shape[0], 6, H, W, dtype=y.dtype)
    o[:, torch.tensor([4, 0, 2, 5])] = y
    o.index_add_(1, torch.tensor([1, 1]), y[:, :2])
    return o[:, :4] + o[:, 2:]


def overwritten(net: nn.Module, y: Tensor) -> Tensor:
    """Several values for one place: the last of them stays, and the others have no part in the output."""
    o = torch.zeros_like(y)
    o.scatter_(1, torch.tensor([0, 2, 0, 2]).reshape(1, 4, 1, 1).expand_as(y), y.sin())
    o[:, torch.tensor([1, 1, 3])] = y[:, :3]
    o[:, :, torch.tensor([0, 2, 0])] = y[:, :, :3]
    o.index_copy_(3, torch.tensor([1, 1]), y[..., 2:4])
    return o * y


def overwritten_by_picture(net: nn.Module, y: Tensor) -> Tensor:
    return y + torch.zeros_like(y).scatter(1, y.argmax(1, keepdim=True).expand_as(y), y.sin())


def diagonal(net: nn.Module, y: Tensor) -> Tensor:
    y = y.clone()
    y.diagonal(dim1=2, dim2=3).add_(1)
    return y


def squeezed(net: nn.Module, y: Tensor) -> Tensor:
    o = y[:, :1].clone()
    o.squeeze_(1)
    o += y[:, 1]
    o.unsqueeze_(1)
    return y * o


def clamped(net: nn.Module, y: Tensor) -> Tensor:
    y = y.clone()
    y.clamp_(-0.2, 0.3).masked_fill_(y > 0.2, 0.7)
    return y


def loop(net: nn.Module, y: Tensor) -> Tensor:
    state = torch.zeros_like(y[:, :, 0])
    out = torch.empty_like(y)
    for row in range(H):
        state.mul_(0.5).add_(y[:, :, row])
        out[:, :, row] = state
    return out


def circular(net: nn.Module, y: Tensor) -> Tensor:
    return functional.pad(y, (1, 1, 1, 1), mode="circular")[:, :, 2:, 2:]


def out_argument(net: nn.Module, y: Tensor) -> Tensor:
    o = torch.empty_like(y)
    with torch.no_grad():
        torch.add(y, net.table, out=o)
        return torch.maximum(o, y, out=o)


def into_input(net: nn.Module, y: Tensor) -> Tensor:
    y += net.table
    y /= 2
    return y


def into_buffer(net: nn.Module, y: Tensor) -> Tensor:
    net.table[:2] = y[0, 2:]
    return y + net.table


def as_other_type(net: nn.Module, y: Tensor) -> Tensor:
    o = torch.zeros_like(y, dtype=torch.float64)
    o.add_(y).copy_(o * 2)
    return y.add_(o)


def strided(net: nn.Module, y: Tensor) -> Tensor:
    y = y.contiguous()
    y.as_strided((y.shape[0], 4, 4), (C * H * W, W, 2)).mul_(3)
    return y


def affine_grid(net: nn.Module, y: Tensor) -> Tensor:
    theta = torch.eye(2, 3, dtype=y.dtype)[None].repeat(y.shape[0], 1, 1)
    theta[:, :, 2] += y.mean((2, 3))[:, :2]
    return functional.grid_sample(y, functional.affine_grid(theta, list(y.shape), False), align_corners=False)


def random_slope(net: nn.Module, y: Tensor) -> Tensor:
    functional.rrelu(y[:, 1:], 0.2, 0.5, training=False, inplace=True)
    return y


def number_copied(net: nn.Module, y: Tensor) -> Tensor:
    o = y.clone()
    o.unsqueeze(1)[:, :, 0].copy_(0.1)
    return o * y


WRITES = [
    clone_of_parameter, expanded_parameter, shift, slice_of_itself, view_then_base, permuted, chunks, indexed,
    overwritten, overwritten_by_picture, diagonal, squeezed, clamped, loop, circular, out_argument, into_input,
    as_other_type, strided, affine_grid, number_copied, random_slope, detached_beside_memory_as_it_lies,
    moved_up,
]  # fmt: skip


class Recurrent(nn.Module):
    """A recurrent layer over the rows of a feature map."""

    def __init__(self, kind: type[nn.RNNBase], **options: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, C, 3, padding=1)
        self.rnn = kind(C * W, 5, batch_first=True, **options)
        self.fc = nn.Linear(10 if options.get("bidirectional") else 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.conv(x).permute(0, 2, 1, 3).flatten(2)
        return self.fc(self.rnn(rows)[0].mean(1))


class Cell(nn.Module):
    """A recurrent cell, called row by row."""

    def __init__(self, kind: type[nn.RNNCellBase]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = kind(3 * W, 5)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(x.shape[0], 5, dtype=x.dtype)
        for row in range(H):
            step = x[:, :, row].flatten(1)
            if isinstance(self.cell, nn.LSTMCell):
                h, c = self.cell(step, (h, c))
            else:
                h = self.cell(step, h)
        return self.fc(h)


class WritesInput(nn.Module):
    """Scales its input in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, C, 3), nn.Linear(C, 3)

    def forward(self, x: Tensor) -> Tensor:
        x *= 2
        x[:, 0] += 1
        return self.fc(self.conv(x).mean((2, 3)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{write.__name__: (lambda write=write: Writer(write)) for write in WRITES},
    "writes its input": WritesInput,
    "rnn": lambda: Recurrent(nn.RNN, nonlinearity="relu"),
    "lstm": lambda: Recurrent(nn.LSTM),
    "lstm, two layers, both ways": lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True),
    "lstm, no bias": lambda: Recurrent(nn.LSTM, bias=False),
    "gru": lambda: Recurrent(nn.GRU),
    "gru, two layers, both ways": lambda: Recurrent(nn.GRU, num_layers=2, bidirectional=True),
    "rnn cell": lambda: Cell(nn.RNNCell),
    "lstm cell": lambda: Cell(nn.LSTMCell),
    "gru cell": lambda: Cell(nn.GRUCell),
}  # fmt: skip


def _traced(net: nn.Module, x: Tensor, path: Path) -> None:
    torch.jit.trace(net, x, check_trace=False).save(str(path))


def _frozen(net: nn.Module, x: Tensor, path: Path) -> None:
    torch.jit.freeze(torch.jit.trace(net, x, check_trace=False)).save(str(path))


def _pt2(net: nn.Module, x: Tensor, path: Path) -> None:
    torch.export.save(torch.export.export(net, (x,)), str(path))


def _onnx(net: nn.Module, x: Tensor, path: Path) -> None:
    torch.onnx.export(net, (x,), str(path), opset_version=18, dynamo=False)


FORMATS = {"traced": _traced, "frozen": _frozen, "pt2": _pt2, "onnx": _onnx}


@pytest.mark.parametrize("format", ["traced", pytest.param("frozen", marks=pytest.mark.slow), "pt2", "onnx"])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore")
def test_the_graph_computes_what_the_module_computes(name: str, format: str, tmp_path: Path) -> None:
    net = NETWORKS[name]().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    example, x = torch.randn(2, N, 3, H, W, generator=generator)
    path = tmp_path / f"net.{'pt2' if format == 'pt2' else 'onnx' if format == 'onnx' else 'pt'}"
    try:
        FORMATS[format](net, example, path)
    except Exception as error:
        pytest.skip(f"torch cannot export it: {type(error).__name__}")
    model = heatcli.load(path, size=(H, W), channels=3)
    result = heatcli.explain(model, x, "lrp-0", target=1)
    truth = _of_runtime(path, x) if format == "onnx" else net(x.clone())
    torch.testing.assert_close(result.outputs, truth, rtol=1e-5, atol=1e-5)
    assert float(result.ledger.relative_error.max()) < 1e-4 or any(map(torch.any, result.unexplained.values()))
    # the map is that of the function: the gradient tells how the output changes, in float64
    if format != "onnx":  # ONNX's exporter is not always right
        found = heatcli.explain(model, x, "gradient", target=1).relevance.double()
        step = torch.randn(x.shape, generator=generator).double() * 1e-6
        net = net.double()
        slope = (net(x + step) - net(x - step))[:, 1].sum() / 2
        torch.testing.assert_close((found * step).sum(), slope, rtol=1e-3, atol=1e-9)


def _of_runtime(path: Path, x: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path))
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


class Overlapping(nn.Module):
    """Writes into the rows that it reads, which torch notices for one image alone."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.tensor([1, 1]))

    def forward(self, x: Tensor) -> Tensor:
        y = x * 1.0
        y.transpose(0, 1).index_put_([self.rows], y[:, :2].transpose(0, 1), accumulate=True)
        return y.mean((2, 3))


def test_what_reads_the_memory_that_it_writes_is_what_the_module_makes_of_it_or_refused(tmp_path: Path) -> None:
    """torch does not say what comes out; the comparison with the artifact does."""
    x = torch.rand(2, 3, 4, 4)
    _traced(Overlapping(), x, tmp_path / "net.pt")
    with pytest.raises(heatcli.ModelError, match="another function"):
        heatcli.explain(heatcli.load(tmp_path / "net.pt", size=(4, 4), channels=3), x, "lrp-0")


class PooledAsAVolume(nn.Module):
    """The batch is pooled as the channels of one volume, whose multiplier then lies in memory channels last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dense = nn.Linear(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.max_pool3d(x, 2, 1)
        return self.dense(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).square().mean((2, 3))


def test_a_multiplier_may_lie_channels_last_before_a_pooling_of_volumes(tmp_path: Path) -> None:
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    _traced(PooledAsAVolume(), x, tmp_path / "net.pt")
    found = heatcli.explain(heatcli.load(tmp_path / "net.pt", size=(8, 8), channels=3), x, "gradient", target=1)
    step = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double() * 1e-6
    net = PooledAsAVolume().double()  # by differences: autograd fails on this network
    slope = (net(x + step) - net(x - step))[:, 1].sum() / 2
    torch.testing.assert_close((found.relevance.double() * step).sum(), slope, rtol=1e-3, atol=1e-9)
