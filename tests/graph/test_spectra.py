"""Fourier transforms inside a network: the same function, autograd's gradient, a closed ledger, and what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import heatcli
from heatcli.errors import ModelError
from heatcli.export.job import ExportRequest, export
from heatcli.export.run import opened
from heatcli.methods.table import method

LONG = 16
WEIGHT = torch.linspace(-1, 1, 9)


def power(z: Tensor) -> Tensor:
    return torch.view_as_real(z).pow(2).sum(-1)


def spectrogram(x: Tensor, **more: object) -> Tensor:
    window = torch.hann_window(8)
    return torch.stft(x[:, 0], 8, 2, 8, window, center=False, return_complex=True, **more)  # type: ignore[arg-type]


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "half of the frequencies": lambda x: power(torch.fft.rfft(x)),
    "odd": lambda x: power(torch.fft.rfft(x[..., :15])),
    "all frequencies": lambda x: power(torch.fft.fft(x)),
    "by the root": lambda x: power(torch.fft.rfft(x, norm="ortho")),
    "forward": lambda x: torch.fft.rfft(x, norm="forward").abs(),
    "there and back": lambda x: torch.fft.irfft(torch.fft.rfft(x) * WEIGHT, n=LONG),
    "back to an odd number": lambda x: torch.fft.irfft(torch.fft.rfft(x[..., :15]) * WEIGHT[:8], n=15),
    "complex there and back": lambda x: torch.fft.ifft(torch.fft.fft(x) * torch.fft.fft(WEIGHT, n=LONG)).real,
    "two dimensions": lambda x: power(torch.fft.rfft2(x.unflatten(2, (4, 4)))).flatten(2),
    "two and back": lambda x: torch.fft.irfft2(torch.fft.rfft2(x.unflatten(2, (4, 4))) * 0.5).flatten(2),
    "another dimension": lambda x: power(torch.fft.rfft(x[:, 0].unflatten(1, (4, 4)), dim=1)).flatten(1)[:, None],
    "a product of two": lambda x: power(torch.fft.rfft(x) * torch.fft.rfft(x.flip(2))),
    "a conjugate": lambda x: (torch.fft.rfft(x) * torch.fft.rfft(x.roll(1, 2)).conj()).real,
    "sums": lambda x: power(torch.fft.rfft(x) + 2 * torch.fft.rfft(x.flip(2)) - WEIGHT),
    "a quotient": lambda x: power(torch.fft.rfft(x) / (2 + WEIGHT) / 3),
    "an angle": lambda x: torch.fft.rfft(x)[..., 1:8].angle(),
    "layouts": lambda x: power(
        torch.cat([torch.fft.rfft(x), -torch.fft.rfft(x)], -1).transpose(1, 2).unsqueeze(1).flip(2)[:, 0, 2:]
    ).flatten(1)[:, None],
    "made of two": lambda x: torch.fft.irfft(torch.complex(x[..., :9], x[..., 7:]), n=LONG),
    "a spectrogram": lambda x: power(spectrogram(x)).flatten(1)[:, None],
    "a spectrogram of all frequencies": lambda x: spectrogram(x, onesided=False).abs().flatten(1)[:, None],
}  # fmt: skip


class Net(nn.Module):
    """Two classes of a function of a signal [N, 1, 16], beside the signal itself."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.head = nn.Linear(function(torch.zeros(1, 1, LONG)).shape[2] + LONG, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([torch.tanh(self.function(x)), x], 2).flatten(1))


def loaded(net: nn.Module, path: Path, form: str = "traced") -> heatcli.Model:
    example = torch.randn(2, 1, LONG, generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form == "traced":
            torch.jit.trace(net.eval(), example).save(str(path))
        else:
            path = path.with_suffix(".pt2")
            batch = ({0: torch.export.Dim("batch", min=1)},)
            torch.export.save(torch.export.export(net.eval(), (example,), dynamic_shapes=batch), path)
    return heatcli.load(path, size=LONG, channels=1, axes="NCL")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_function_the_gradient_and_the_ledger(name: str, tmp_path: Path) -> None:
    """Of three signals, captured on one; the graph is verified against the artifact when it is captured."""
    net = Net(FUNCTIONS[name]).eval()
    model = loaded(net, tmp_path / "net.pt")
    x = torch.randn(3, 1, LONG, generator=torch.Generator().manual_seed(2), requires_grad=True)
    found = heatcli.explain(model, x.detach(), "gradient", 1)
    output = net(x)[:, 1]
    (own,) = torch.autograd.grad(output.sum(), x)
    torch.testing.assert_close(found.outputs[:, 1], output.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.relevance, own, rtol=1e-3, atol=1e-4)
    booked = heatcli.explain(model, x.detach(), "lrp-eps", 1, baseline="none")
    assert name == "an angle" or float(booked.ledger.relative_error.max()) < 1e-4  # atan2 has no rule, and is told
    assert found.verified is not None
    assert found.verified.agrees


def test_a_filter_is_linear(tmp_path: Path) -> None:
    """LRP of a linear network is its weights times the input, whatever basis the network computes in."""

    class Filter(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.irfft(torch.fft.rfft(x) * WEIGHT, n=LONG)[:, 0, :2]

    model = loaded(Filter(), tmp_path / "net.pt")
    x = torch.randn(2, 1, LONG, generator=torch.Generator().manual_seed(3))
    matrix = torch.autograd.functional.jacobian(lambda v: Filter()(v[None, None])[0, 1], x[0, 0])
    found = heatcli.explain(model, x, "lrp-0", 1, baseline="none")
    torch.testing.assert_close(found.relevance[:, 0], matrix * x[:, 0], rtol=1e-4, atol=1e-5)


def test_from_a_program_and_as_onnx(tmp_path: Path) -> None:
    """ONNX Runtime runs the explained spectrogram, of standard operators alone."""
    model = loaded(Net(FUNCTIONS["a spectrogram"]), tmp_path / "net.pt", "exported")
    x = torch.randn(3, 1, LONG, generator=torch.Generator().manual_seed(4))
    said = heatcli.explain(model, x, "lrp-eps", 1, baseline="none")
    export(model, ExportRequest(path=tmp_path / "e.onnx", method=method("lrp-eps"), target="1", baseline="none"))
    found = opened(tmp_path / "e.onnx").run({"input": x})["relevance"]
    np.testing.assert_allclose(found, said.relevance.numpy(), atol=1e-4 * float(said.relevance.abs().max()))


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: torch.fft.rfft(x).tanh().real, "calls aten.tanh.default on complex numbers"),
        (lambda x: torch.fft.rfft(x, n=5000).abs(), "transforms 5,000 values at once"),
        (lambda x: (torch.fft.rfft(x) / torch.fft.rfft(x.flip(2))).real, "divides by complex numbers"),
    ],
)
def test_what_has_no_form_on_pairs_is_one_line(function: Callable[[Tensor], Tensor], why: str, tmp_path: Path) -> None:
    model = loaded(Net(function), tmp_path / "net.pt")
    with pytest.raises(ModelError, match=why):
        heatcli.explain(model, torch.zeros(1, 1, LONG), "gradient", 1)
