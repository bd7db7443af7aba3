"""Artifacts: recognised by content, never unpickled, all formats the same graph."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import SAMPLES, Cli
from networks import CORE
from torch import Tensor, nn

import heatcli
from heatcli.artifact.formats import recognise
from heatcli.errors import ModelError, UsageError


class Net(nn.Module):
    """A small classifier with a reused ReLU, BatchNorm, a residual sum and a dense head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)
        self.relu = nn.ReLU(inplace=True)
        torch.manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5)
        nn.init.normal_(self.bn.running_mean)
        nn.init.uniform_(self.bn.running_var, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn(self.conv(x)))
        y = self.relu(y + y.roll(1, 2))
        return self.head(y.mean((2, 3)))


EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def _scripted(path: Path) -> None:
    torch.jit.script(Net().eval()).save(str(path))


def _traced(path: Path) -> None:
    torch.jit.trace(Net().eval(), EXAMPLE).save(str(path))


def _pt2(path: Path) -> None:
    shapes = ({0: torch.export.Dim("batch")},)
    with path.open("wb") as file:
        torch.export.save(torch.export.export(Net().eval(), (EXAMPLE,), dynamic_shapes=shapes), file)


def _onnx(path: Path) -> None:
    torch.onnx.export(
        Net().eval(), (EXAMPLE,), path, dynamo=True, external_data=False, verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )  # fmt: skip


SAVERS: dict[str, Callable[[Path], None]] = {"scripted": _scripted, "traced": _traced, "pt2": _pt2, "onnx": _onnx}
pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same network in every format."""
    folder = tmp_path_factory.mktemp("formats")
    for kind, save in SAVERS.items():
        save(folder / kind)
    return {kind: folder / kind for kind in SAVERS}


@pytest.mark.parametrize("kind", SAVERS)
@pytest.mark.parametrize("suffix", [".pt", ".onnx", ".pt2", ".bin"])
def test_recognised_by_content(tmp_path: Path, saved: dict[str, Path], kind: str, suffix: str) -> None:
    path = Path(shutil.copy(saved[kind], tmp_path / f"model{suffix}"))
    assert recognise(path).name == {"scripted": "torchscript", "traced": "torchscript"}.get(kind, kind)


@pytest.mark.parametrize("method", CORE)
def test_all_formats_give_the_same_answer(saved: dict[str, Path], method: str) -> None:
    """Scores, relevance and bias totals agree across formats; TorchScript and .pt2 also name the same biases."""
    expected = Net().eval()(EXAMPLE)
    found = {}
    parameters = {"epsilon": 0.1} if method == "lrp-eps" else {}
    for kind, path in saved.items():
        found[kind] = heatcli.explain(heatcli.load(path, size=8), EXAMPLE, method, **parameters)
        assert torch.allclose(found[kind].outputs, expected, atol=1e-6)
    first = found["scripted"]
    assert list(first.biases) == ["conv.bias", "bn.bias", "head.bias"]
    for kind in ("traced", "pt2"):
        for name, values in first.biases.items():
            assert torch.allclose(found[kind].biases[name], values, atol=1e-6), (kind, name)
        assert torch.allclose(found[kind].relevance, first.relevance, atol=1e-6)
    if method != "lrp-eps":  # the ONNX exporter folds BatchNorm away, and ε counts operators
        assert torch.allclose(found["onnx"].relevance, first.relevance, atol=1e-6)
        assert torch.allclose(found["onnx"].ledger.biases, first.ledger.biases, atol=1e-6)


class _Bomb:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.mkdir, (_Bomb.target,)  # type: ignore[return-value]

    target = ""


def _rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes | None], **more: bytes) -> None:
    """A copy of a zip archive with members changed, left out, or added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        root = old.namelist()[0].split("/")[0]
        for name in old.namelist():
            content = change(name.partition("/")[2], old.read(name))
            if content is not None:
                new.writestr(name, content)
        for name, content in more.items():
            inner = name.replace("__", "/")
            new.writestr(inner if inner.startswith("serialized_") else f"{root}/{inner}", content)


def test_pickles_in_pt2_are_refused_unopened(tmp_path: Path) -> None:
    """A bomb in any place that torch would unpickle, call or evaluate is refused, and does not go off."""
    _pt2(tmp_path / "good.pt2")
    assert heatcli.load(tmp_path / "good.pt2").format == "pt2"
    _Bomb.target = str(tmp_path / "exploded")
    bomb = pickle.dumps(_Bomb())
    buffer = io.BytesIO()
    torch.save(_Bomb(), buffer)

    def swapped(member: str, content: bytes) -> Callable[[str, bytes], bytes | None]:
        """A change of the archive: other content in that member."""
        return lambda name, old: content if name == member else old

    def edited(change: Callable[[str], str]) -> Callable[[str, bytes], bytes | None]:
        return lambda name, old: change(old.decode()).encode() if name.startswith("models/") else old

    def keep(_: str, old: bytes) -> bytes:
        return old

    cases: dict[str, tuple[Callable[[str, bytes], bytes | None], dict[str, bytes], str]] = {
        "opaque": (keep, {"data__constants__opaque_obj_0": bomb}, "pickled objects"),
        "config": (
            lambda name, old: old.replace(b'"use_pickle": false', b'"use_pickle": true') if "config" in name else old,
            {}, "pickled tensors",
        ),
        "old": (keep, {"serialized_constants.pt": bomb}, "old torch.export format"),
        "compiled": (keep, {"data__aotinductor__model__a.so": b"\x7fELF"}, "compiled code"),
        "call": (edited(lambda t: t.replace("torch.ops.aten.relu_.default", "torch.hub.load")), {}, "torch.hub.load"),
        "expression": (
            edited(lambda t: t.replace("Symbol('", "__import__('os').mkdir('", 1)), {}, "size expression"),
    }  # fmt: skip
    _rewritten(
        tmp_path / "good.pt2", tmp_path / "sample.pt2", swapped("data/sample_inputs/model.pt", buffer.getvalue())
    )
    assert heatcli.load(tmp_path / "sample.pt2").format == "pt2"  # sample inputs are left out
    for name, (change, more, message) in cases.items():
        bad = tmp_path / f"{name}.pt2"
        _rewritten(tmp_path / "good.pt2", bad, change, **more)
        with pytest.raises(ModelError, match=message):
            heatcli.load(bad)
    assert not Path(_Bomb.target).exists()
    pickle.loads(bomb)
    assert Path(_Bomb.target).exists()  # the bomb is live


def test_a_baked_batch_size_is_run_at_that_size(tmp_path: Path) -> None:
    """.pt2 and ONNX exported for two images: five images give what five single eager runs give."""
    with (tmp_path / "two.pt2").open("wb") as file:
        torch.export.save(torch.export.export(Net().eval(), (EXAMPLE,)), file)
    torch.onnx.export(Net().eval(), (EXAMPLE,), tmp_path / "two.onnx", dynamo=True, external_data=False, verbose=False)
    batch = torch.randn(5, 3, 8, 8)
    for name in ("two.pt2", "two.onnx"):
        model = heatcli.load(tmp_path / name)
        assert model.batch_size == 2
        assert model.shape == (3, 8, 8)
        result = heatcli.explain(model, batch, "lrp-0", baseline=torch.zeros_like(batch), target=[0, 1, 2, 3, 4])
        assert torch.allclose(result.outputs, Net().eval()(batch), atol=1e-6)
        assert result.relevance.shape == batch.shape
        assert result.target.index.tolist() == [0, 1, 2, 3, 4]
        assert float(result.ledger.relative_error.max()) < 1e-5


class Flat(nn.Module):
    """Views to a fixed number of images, as traced code does."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(1, 48).tanh()


def test_the_user_is_told_once_of_a_baked_batch_size(cli: Cli, tmp_path: Path) -> None:
    torch.jit.trace(Flat(), torch.zeros(1, 3, 4, 4)).save(str(tmp_path / "flat.pt"))
    ran = cli("explain", *sorted(SAMPLES.glob("*-on-snow.png")), "--model", tmp_path / "flat.pt", "--size", "4")
    assert ran.status == 0
    assert ran.err.count("flat.pt takes 1 image at a time") == 1


def test_a_traced_batch_size_is_found_out(tmp_path: Path) -> None:
    torch.jit.trace(Flat(), torch.zeros(1, 3, 4, 4)).save(str(tmp_path / "flat.pt"))
    model = heatcli.load(tmp_path / "flat.pt", size=4)
    batch = torch.randn(3, 3, 4, 4)
    result = heatcli.explain(model, batch, "lrp-0")
    assert model.batch_size == 1
    assert torch.equal(result.outputs, batch.reshape(3, 48).tanh())


def test_a_traced_batch_size_is_found_out_by_the_points_of_one_image(tmp_path: Path) -> None:
    """A single image says nothing of the batch size; the path that a method takes from it does."""
    torch.jit.trace(Flat(), torch.zeros(1, 3, 4, 4)).save(str(tmp_path / "flat.pt"))
    model = heatcli.load(tmp_path / "flat.pt", size=4)
    result = heatcli.explain(model, torch.randn(1, 3, 4, 4), "integrated-gradients", steps=50)
    assert model.batch_size == 1
    assert float(result.ledger.relative_error) < 1e-3


class Depthwise(nn.Module):
    """Filters each image by kernels made of it: as many groups as channels of all images, a number in a trace."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kernel, self.head = nn.Parameter(torch.randn(3, 3)), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        kernels = x.mean((2, 3)).view(n * c, 1, 1, 1) * self.kernel
        return self.head(nn.functional.conv2d(x.reshape(1, n * c, h, w), kernels, groups=n * c).view(n, c, -1).mean(2))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_traced_batch_size_with_images_side_by_side(tmp_path: Path) -> None:
    """It takes two images and no single one, and they are not kept apart: each is explained beside itself."""
    path, module, batch = tmp_path / "m.pt", Depthwise().requires_grad_(False), torch.randn(3, 2, 3, 8, 8)
    torch.jit.trace(module, batch[0], check_trace=False).save(str(path))
    model = heatcli.load(path, size=8)
    for images in batch:
        result = heatcli.explain(model, images, "gradient", target=1)
        torch.testing.assert_close(result.outputs, module(images))
        leaf = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(module(leaf)[:, 1].sum(), leaf)
        torch.testing.assert_close(result.relevance, gradient)
    assert model.batch_size == 2


def test_a_channel_of_one_image_and_of_several(tmp_path: Path) -> None:
    """A channel of a single image is one piece of memory, of several it is not, so torch calls other operators."""

    class Channel(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.select(x.tanh(), 1, 2).reshape(x.shape[0], -1)

    batch = torch.export.Dim("N", min=1, max=64)
    program = torch.export.export(Channel(), (torch.zeros(2, 3, 4, 4),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "m.pt2")
    model = heatcli.load(tmp_path / "m.pt2", size=4)
    for n in (1, 2, 5):
        images = torch.randn(n, 3, 4, 4)
        torch.testing.assert_close(heatcli.explain(model, images, "gradient").outputs, Channel()(images))


def test_what_an_artifact_says_of_itself(tmp_path: Path) -> None:
    """The sidecar's text inside the artifact serves like a file beside it; the file wins, flags win over both."""
    text = '[input]\nsize = [8, 8]\nmean = 0.5\n[labels]\nnames = ["a", "b", "c", "d", "e"]\n'
    scripted = torch.jit.script(Net().eval())
    torch.jit.save(scripted, str(tmp_path / "m.pt"), _extra_files={"heatcli.toml": text})
    _onnx(tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    onnx.helper.set_model_props(proto, {"heatcli.toml": text})
    onnx.save(proto, tmp_path / "m.onnx")
    program = torch.export.export(Net().eval(), (EXAMPLE,))
    with (tmp_path / "m.pt2").open("wb") as file:
        torch.export.save(program, file, extra_files={"heatcli.toml": text})
    for name in ("m.pt", "m.onnx", "m.pt2"):
        model = heatcli.load(tmp_path / name)
        assert model.shape == (3, 8, 8), name
        assert model.labels == ("a", "b", "c", "d", "e")
        assert model.input.mean == 0.5
        assert heatcli.load(tmp_path / name, mean=(0.1, 0.2, 0.3)).input.mean == (0.1, 0.2, 0.3)
    (tmp_path / "m.toml").write_text("[input]\nsize = 16\n")
    assert heatcli.load(tmp_path / "m.pt").shape == (3, 16, 16)
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    assert heatcli.load(tmp_path / "m.pt", labels=tmp_path / "names.txt").labels == ("one", "two")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[input]\nsise = 8\n", "unknown field `sise`"),
        ("[input]\nsize = 'big'\n", r"got `str` - at `\$.input.size`"),
        ("[input\n", "bad sidecar"),
        ("[labels]\nfile = 'nowhere.txt'\n", "nowhere.txt: the labels cannot be read"),
    ],
)
def test_bad_sidecars(tmp_path: Path, text: str, message: str) -> None:
    _scripted(tmp_path / "m.pt")
    (tmp_path / "m.toml").write_text(text)
    with pytest.raises(ModelError, match=message) as error:
        heatcli.load(tmp_path / "m.pt")
    assert "\n" not in str(error.value)


class Listed(nn.Module):
    """Makes tensors of numbers in its code, some that only the input tells."""

    __constants__ = ("dynamic",)

    def __init__(self, dynamic: bool) -> None:
        super().__init__()
        self.dynamic = dynamic

    def forward(self, x: Tensor) -> Tensor:
        y = x.mean((2, 3)) * torch.tensor([1.0, 2.0, 3.0])
        return y * torch.tensor([float(x.shape[0])]) if self.dynamic else y


class Writing(nn.Module):
    """Writes in place into a value of the image by a tensor of a number that only the input tells."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.mean((2, 3))
        return y.mul_(torch.tensor([float(x.shape[0])]))


def test_tensors_made_in_script(tmp_path: Path) -> None:
    """Constant ones are computed at loading; others are traced without what would crash the interpreter."""
    for dynamic in (False, True):
        torch.jit.script(Listed(dynamic)).save(str(tmp_path / f"{dynamic}.pt"))
        result = heatcli.explain(heatcli.load(tmp_path / f"{dynamic}.pt", size=4), torch.ones(2, 3, 4, 4), "lrp-0")
        assert result.outputs.tolist() == [[2, 4, 6] if dynamic else [1, 2, 3]] * 2
    torch.jit.script(Writing()).save(str(tmp_path / "writing.pt"))
    result = heatcli.explain(heatcli.load(tmp_path / "writing.pt", size=4), torch.ones(2, 3, 4, 4), "lrp-0")
    assert torch.equal(result.outputs, Writing()(torch.ones(2, 3, 4, 4)))


class Blind(nn.Module):
    """Says the same whatever it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.bias.expand(x.shape[0], 3)


class Infinite(nn.Module):
    """Overflows."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) * 1e30).exp()


@pytest.mark.parametrize(
    ("module", "message"), [(Blind(), "does not depend on the image"), (Infinite(), "not finite (NaN or infinite)")]
)
def test_models_that_cannot_be_explained(tmp_path: Path, module: nn.Module, message: str) -> None:
    torch.jit.script(module).save(str(tmp_path / "m.pt"))
    model = heatcli.load(tmp_path / "m.pt", size=4)
    with pytest.raises(ModelError, match=message.replace("(", r"\(").replace(")", r"\)")):
        heatcli.explain(model, torch.ones(1, 3, 4, 4))


def test_the_default_model_is_found(tmp_path: Path) -> None:
    """The embedded model loads with labels, size and mean image."""
    model = heatcli.load()
    assert {"wolf", "dog"} <= set(model.labels)
    assert model.pictures.mean_file is not None
    assert model.pictures.mean_file.is_file()
    assert len(model.sha256) == 64
    with pytest.raises(UsageError, match="give --size"):
        _ = heatcli.load(shutil.copy(model.path, tmp_path / "alone.pt")).shape


def test_schema_of_a_sidecar_is_json_ready() -> None:
    import msgspec

    assert json.loads(msgspec.json.encode(heatcli.load().input))["resize"] in ("crop", "stretch")


class Empty(nn.Module):
    """Exports something, but no forward."""

    @torch.jit.export
    def run(self, x: Tensor) -> Tensor:
        return x


def test_a_module_without_forward_is_refused(tmp_path: Path) -> None:
    torch.jit.script(Empty()).save(str(tmp_path / "m.pt"))
    with pytest.raises(ModelError, match="has no forward method"):
        heatcli.load(tmp_path / "m.pt")


class Offset(nn.Module):
    """Computes a constant on its way, which TorchScript does once and for all from its second run on."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + torch.arange(4.0).exp()).sigmoid().flatten(1) * 2


def test_operators_are_named_alike_in_every_capture(tmp_path: Path) -> None:
    """Whatever was captured before: so reports of one run and another can be compared."""
    torch.jit.script(Offset()).save(str(tmp_path / "offset.pt"))
    names = []
    for shapes in ([1], [3, 1], [2, 3, 1]):
        model = heatcli.load(tmp_path / "offset.pt", size=4)
        graphs = [model.graph((n, 3, 4, 4)) for n in shapes]
        names.append([op.name for op in graphs[-1].operators])
    assert names[0] == names[1] == names[2]


def test_an_artifact_that_is_overwritten_while_in_use(tmp_path: Path) -> None:
    """The model that was loaded is the one that answers."""
    _scripted(tmp_path / "m.pt")
    model = heatcli.load(tmp_path / "m.pt", size=8)
    model.graph(EXAMPLE.shape)
    torch.jit.script(Offset()).save(str(tmp_path / "m.pt"))
    assert torch.allclose(heatcli.explain(model, EXAMPLE[:1]).outputs, Net().eval()(EXAMPLE[:1]), atol=1e-6)


@pytest.mark.parametrize(
    ("flag", "said"),
    [({"resize": 256}, r"resize 256 is not allowed: expected `str`, got `int`"),
     ({"mean": "imagenet"}, r"mean 'imagenet' is not allowed: expected `float \| array`, got `str`"),
     ({"order": "grb"}, r"order 'grb' is not allowed: invalid enum value 'grb'"),
     ({"size": (8.5, 8)}, r"size \(8\.5, 8\) is not allowed: expected `int`, got `float`")],
)  # fmt: skip
def test_a_value_of_another_type_is_refused_in_one_line(flag: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        heatcli.load(**flag)  # type: ignore[arg-type]


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    model = heatcli.load(size=np.int64(96), mean=np.array([0.1, 0.2, 0.3]), std=torch.full((3,), 0.25))
    assert (model.settings.input.size, model.settings.input.mean) == ((96, 96), (0.1, 0.2, 0.3))
    assert model.settings.input.std == (0.25, 0.25, 0.25)
