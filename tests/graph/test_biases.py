"""Every element of every bias: what lrp-0 books to it is the gradient of the score by it, times its value."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from networks import CLASSES, NETWORKS, RELU_NETWORKS, SIZE, images, load, network, randomised
from torch import Tensor, nn
from torch.nn import functional

import heatcli

TARGET = 2


def owners(module: nn.Module) -> dict[str, nn.Module]:
    """Bias name → the module it belongs to, for all biases that a module has."""
    return {
        f"{name}.bias": part
        for name, part in module.named_modules()
        if isinstance(getattr(part, "bias", None), nn.Parameter)
    }


def effective(part: nn.Module) -> Tensor:
    """What `part` adds at zero input: its bias, and for batch norm beta − mean·gamma/sigma."""
    bias = part.get_parameter("bias").detach()
    if not isinstance(part, nn.BatchNorm2d):
        return bias
    assert part.running_mean is not None
    assert part.running_var is not None
    return bias - part.running_mean * part.weight.detach() / torch.sqrt(part.running_var + part.eps)


def expected_entries(module: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    """Bias name → gradient × effective bias [N, size], by autograd of the eager module, image by image."""
    parts = owners(module)
    rows = []
    for image in batch.split(1):
        gradients = torch.autograd.grad(module(image)[0, TARGET], [part.bias for part in parts.values()])
        rows.append([g.detach() * effective(part) for g, part in zip(gradients, parts.values(), strict=True)])
    return {name: torch.stack(column) for name, column in zip(parts, zip(*rows, strict=True), strict=True)}


def assert_entries(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """The same names, and each element equal to 1e-5 of its bias's largest entry."""
    assert set(found) == set(expected)
    for name, entries in expected.items():
        assert found[name].shape == entries.shape, name
        assert entries.abs().max() > 0, name
        torch.testing.assert_close(found[name], entries, rtol=1e-5, atol=1e-5 * float(entries.abs().max()), msg=name)


@pytest.mark.parametrize("form", ["scripted", "pt2"])
@pytest.mark.parametrize("which", RELU_NETWORKS)
def test_entry_is_gradient_times_bias(which: str, form: str, tmp_path: Path) -> None:
    module, batch = network(which), images(3)
    result = heatcli.explain(load(module, tmp_path, form), batch, "lrp-0", target=TARGET)
    assert_entries(result.biases, expected_entries(module, batch))


def test_entry_is_gradient_times_bias_in_onnx(tmp_path: Path) -> None:
    """Old and new exporter; `plain` has no batch norm that the exporter would fold into another bias."""
    module, batch = network("plain"), images(3)
    expected = expected_entries(module, batch)
    for form in ("onnx-old", "onnx-new"):
        assert_entries(heatcli.explain(load(module, tmp_path, form), batch, "lrp-0", target=TARGET).biases, expected)


def test_batch_norm_without_affine_parameters_books_its_shift(tmp_path: Path) -> None:
    """It has no bias to name: −mean/sigma is booked to the operator's own shift."""
    module = randomised(nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.Flatten(), nn.Linear(48, CLASSES)), 3)
    batch = images(2, shape=(3, 4, 4))
    result = heatcli.explain(load(module, tmp_path, shape=(3, 4, 4)), batch, "lrp-0", target=TARGET)
    norm, linear = module[0], module[2]
    gradient = linear.weight[TARGET].detach().reshape(3, -1).sum(1)
    (shift,) = (name for name in result.biases if name != "2.bias")
    assert shift.endswith(".shift")
    expected = -norm.running_mean / torch.sqrt(norm.running_var + norm.eps) * gradient
    torch.testing.assert_close(result.biases[shift], expected.expand(2, -1))


@pytest.mark.parametrize("element", [(name, i) for name in ("0.bias", "1.bias", "3.bias") for i in (0, 2)])
def test_zeroing_one_element_in_a_linear_network_takes_its_entry_from_the_output(
    element: tuple[str, int], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 3, 3), nn.Flatten(), nn.Linear(192, 4))
    module, batch = randomised(module, 1).double(), images(2, shape=(3, 8, 8)).double()
    model = load(module.float(), tmp_path, shape=(3, 8, 8))
    name, index = element
    entry = heatcli.explain(model, batch.float(), "lrp-0", target=TARGET).biases[name][:, index]
    module = module.double()
    before = module(batch)[:, TARGET]
    with torch.no_grad():
        module.get_parameter(name)[index] = 0
    change = (before - module(batch)[:, TARGET]).detach()
    if name != "3.bias" or index == TARGET:
        assert change.abs().max() > 0
    torch.testing.assert_close(entry.double(), change, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", ["scripted", "traced", "pt2"])
@pytest.mark.parametrize("which", list(NETWORKS))
def test_names_are_the_artifacts_own_in_forward_order(which: str, form: str, tmp_path: Path) -> None:
    """As forward hooks see the modules that carry a bias; offsets of nonlinearities have names of their own."""
    module, seen = network(which), []
    parts = owners(module)
    handles = [part.register_forward_hook(lambda *_, name=name: seen.append(name)) for name, part in parts.items()]
    module(images(2))
    for handle in handles:
        handle.remove()
    found = heatcli.explain(load(module, tmp_path, form), images(2), "lrp-0").biases
    assert [name for name in found if not name.endswith(".offset")] == seen
    assert all(found[name].shape == (2, part.bias.numel()) for name, part in parts.items())


def test_names_are_those_of_the_onnx_file(tmp_path: Path) -> None:
    """Whatever the exporter called its initialisers, the report calls them so, never a converter's spelling."""
    import onnx

    for form in ("onnx-old", "onnx-new"):
        model = load(network("residual"), tmp_path, form)
        names = {i.name for i in onnx.load(model.path).graph.initializer}
        found = heatcli.explain(model, images(2), "lrp-0").biases
        assert set(found) <= names
        assert len(found) >= 3


class Shared(nn.Module):
    """One convolution at two places, one bias parameter added by hand at two more."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.shift = nn.Parameter(torch.tensor([0.1, -0.2, 0.3]).reshape(1, 3, 1, 1))
        self.fc = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv(x) + self.shift)
        x = functional.relu(self.conv(x) - self.shift)
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize("method", ["lrp-0", "lrp-eps"])
def test_a_bias_used_twice_is_booked_once_under_its_name(method: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, batch = randomised(Shared(), 1), images(2, shape=(3, SIZE, SIZE))
    result = heatcli.explain(load(module, tmp_path), batch, method, target=TARGET)
    assert list(result.biases) == ["conv.bias", "shift", "fc.bias"]
    parameters = {"conv.bias": module.conv.bias, "shift": module.shift, "fc.bias": module.fc.bias}
    for i, image in enumerate(batch.split(1)):
        gradients = torch.autograd.grad(module(image)[0, TARGET], list(parameters.values()))
        for (name, bias), gradient in zip(parameters.items(), gradients, strict=True):
            expected = (gradient * bias).detach().flatten()
            torch.testing.assert_close(result.biases[name][i], expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(result.ledger.biases, sum(b.double().sum(1) for b in result.biases.values()))


class Tokens(nn.Module):
    """Dense layers on [N, T, C], as after a patch embedding: ATen folds the images and tokens into one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.fc = nn.Conv2d(3, 6, 4, stride=4), nn.Linear(6, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2).contiguous()
        return self.fc(functional.relu(self.mix(x))).mean(1)


class SequenceFirst(Tokens):
    """The same with the tokens in front, [T, N, C], as torch's own attention lays them out."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).permute(2, 0, 1)
        return self.fc(functional.relu(self.mix(x))).mean(0)


@pytest.mark.parametrize("n", [1, 3, 16], ids=["one image", "three", "as many images as tokens"])
@pytest.mark.parametrize("build", [Tokens, SequenceFirst])
def test_biases_of_dense_layers_on_tokens_are_booked_to_each_image(
    build: type[nn.Module], n: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module, batch = randomised(build(), 1), images(n)
    result = heatcli.explain(load(module, tmp_path), batch, "lrp-0", target=TARGET)
    assert_entries(result.biases, expected_entries(module, batch))
    assert result.ledger.relative_error.max() < 1e-5


class Joined(Tokens):
    """Constants among the tokens, before and behind them, and one beside each token."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.behind, self.beside = (nn.Parameter(torch.randn(1, n, 6)) for n in (1, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        n, count, _ = tokens.shape
        tokens = torch.stack([tokens, self.beside.expand(n, count, -1)], 2).sum(2)
        tokens = torch.cat([self.before.expand(n, -1, -1), tokens, self.behind.expand(n, -1, -1)], 1)
        return self.fc(functional.relu(self.mix(tokens))).mean(1)


@pytest.mark.parametrize("form", ["scripted", "onnx-old"])
def test_joined_constants_are_booked_element_by_element_under_their_names(form: str, tmp_path: Path) -> None:
    """Gradient times value of each element, and no entry for the tokens that are not theirs."""
    torch.manual_seed(0)
    module, batch = randomised(Joined(), 1), images(2)
    result = heatcli.explain(load(module, tmp_path, form), batch, "lrp-0", target=TARGET)
    for i, image in enumerate(batch.split(1)):
        for name in ("before", "behind", "beside"):
            value = module.get_parameter(name)
            (gradient,) = torch.autograd.grad(module(image)[0, TARGET], value)
            entries = result.biases[name][i]
            if name == "beside":  # laid out once for each token
                entries = entries.reshape(-1, 6).sum(0)
            torch.testing.assert_close(entries, (gradient * value).detach().flatten(), rtol=1e-4, atol=1e-5)
    assert result.ledger.relative_error.max() < 1e-5


@pytest.mark.parametrize("method", ["lrp-0", "lrp-eps", "deeplift-rescale"])
@pytest.mark.parametrize("which", list(NETWORKS))
def test_with_a_baseline_every_bias_cancels(which: str, method: str, tmp_path: Path) -> None:
    result = heatcli.explain(load(network(which), tmp_path), images(2), method, baseline="zero", target=TARGET)
    assert result.biases, "they are still listed"
    assert all(bool((entries == 0).all()) for entries in result.biases.values())
    assert result.ledger.relative_error.max() < 1e-5
