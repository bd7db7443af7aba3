"""`heatcli export`: the explained model says in its own runtime what `explain` says, of pictures it never saw."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import networks
import numpy as np
import onnx
import pytest
import torch
from conftest import MODELS, SAMPLES
from torch import Tensor, nn

from heatcli.artifact.explained import Note
from heatcli.errors import UsageError
from heatcli.explanation import Explanation, explain
from heatcli.export.dynamic import FrozenError, joined
from heatcli.export.job import ExportRequest, Recording, export, recording
from heatcli.export.run import opened
from heatcli.export.verify import verify, verify_record
from heatcli.export.write import WRITERS, _book_early
from heatcli.methods.method import Method
from heatcli.methods.table import METHODS, method
from heatcli.model.model import Model, load

CLOSE, MEDIAN = 1e-4, 1e-6


@pytest.fixture(scope="module")
def digits() -> Model:
    return load(MODELS / "digits.onnx")


def pictures(model: Model, count: int) -> Tensor:
    """Sample pictures as the network takes them."""
    folder = SAMPLES / "digits" if "digits" in model.path.name else SAMPLES
    files = sorted(folder.glob("*.png"))
    return model.preprocess([model.pictures.reader.picture(files[i % len(files)]) for i in range(count)])


def assert_says(found: dict[str, Any], said: Explanation) -> None:
    """Relevance agrees to 1e-4 of the largest (in the median 1e-6), and the ledger is closed."""
    expected = said.relevance.numpy()
    error = np.abs(found["relevance"] - expected) / np.abs(expected).max(axis=(1, 2, 3), keepdims=True)
    assert error.max() < CLOSE
    assert np.median(error) < MEDIAN
    np.testing.assert_allclose(found["heatmap"], found["relevance"].sum(1), atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(found["logits"], said.outputs.numpy(), rtol=1e-4, atol=1e-4)
    output, output0, *parts = found["ledger"].T
    np.testing.assert_allclose(output - output0, sum(parts), rtol=CLOSE, atol=CLOSE * np.abs(output).max())
    np.testing.assert_allclose(output, said.ledger.output.numpy(), rtol=1e-5, atol=1e-6 * np.abs(output).max())
    biases = np.stack([entry.sum(1).numpy() for entry in said.biases.values()], 1)
    np.testing.assert_allclose(found["biases"], biases, rtol=1e-3, atol=1e-4 * np.abs(output).max())


def assert_exported(model: Model, path: Path, name: str, **asked: Any) -> None:
    """Exported on noise, it says of pictures, one and eight at once, what `explain` says."""
    chosen = method(name)
    note = export(model, ExportRequest(path=path, method=chosen, **asked))
    assert_written(model, path, note, chosen, **asked)


def assert_written(model: Model, path: Path, note: Note, chosen: Method, **asked: Any) -> None:
    """The artifact says of pictures, one and eight at once, what `explain` says."""
    assert note.source.sha256 == model.sha256
    explained = opened(path)
    assert explained.note == note
    for count in (1, 8):
        batch = pictures(model, count)
        said = explain(model, batch, chosen, asked.get("target"), asked.get("baseline"))
        assert_says(explained.run({"input": batch}), said)


@pytest.fixture(scope="module")
def recorded(digits: Model) -> Recording:
    """One record, for all formats."""
    return recording(digits, ExportRequest(path=Path("explained.onnx"), method=method("lrp-eps")))


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".pt"])
def test_every_format_says_what_explain_says(digits: Model, recorded: Recording, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"explained{suffix}"
    path.write_bytes(recorded.content(WRITERS[suffix]))
    assert_written(digits, path, recorded.note, method("lrp-eps"))


@pytest.mark.parametrize("name", ["deeplift-rescale"])  # all: slow, below
def test_onnx_says_what_explain_says(digits: Model, tmp_path: Path, name: str) -> None:
    assert_exported(digits, tmp_path / "explained.onnx", name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, one in METHODS.items() if one.kind in ("backward", "cam")])
def test_every_method_of_walks_says_what_explain_says(digits: Model, tmp_path: Path, name: str) -> None:
    assert_exported(digits, tmp_path / "explained.onnx", name)


class Forked(nn.Module):
    """Two classes, each of a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.one(x).relu().mean((1, 2, 3)), self.two(x).relu().mean((1, 2, 3))], 1)


def test_a_cam_names_its_layer_where_several_may_be_the_last(tmp_path: Path) -> None:
    """`explain` takes the layer of each picture's class; what is written down has one layer."""
    model, path = networks.load(Forked(), tmp_path, shape=(3, 16, 16)), tmp_path / "e.onnx"
    with pytest.raises(UsageError, match=r"the last layer depends on the score here; name one .* relu_1, relu_4"):
        export(model, ExportRequest(path=path, method=method("grad-cam")))
    chosen = method("grad-cam", layer="one")
    assert_written(model, path, export(model, ExportRequest(path=path, method=chosen, target="0")), chosen, target="0")


def in_openvino(path: Path, note: Note, batch: torch.Tensor) -> dict[str, np.ndarray]:
    """The outputs of an explained model in OpenVINO, in float32."""
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return dict(zip(note.outputs, compiled([batch.numpy()]).values(), strict=True))


@pytest.mark.slow
def test_sequences_by_integrated_gradients(tmp_path: Path) -> None:
    """Constants are numbers while a record is made: what an operator is may depend on their values."""
    model = load(MODELS / "motifs.onnx")
    export(model, ExportRequest(path=tmp_path / "e.onnx", method=method("integrated-gradients")))
    x = model.capture.noise((3, *model.pictures.input_shape), 5)
    said = explain(model, x, "integrated-gradients").relevance.numpy()
    found = opened(tmp_path / "e.onnx").run({"input": x})["relevance"]
    np.testing.assert_allclose(found, said, atol=1e-4 * abs(said).max())


def test_long_signals_need_no_large_matrices(tmp_path: Path) -> None:
    """Padding and pooling side by side are slices; what would be a matrix of all samples is refused in a line."""
    torch.manual_seed(0)
    head = [nn.Conv1d(1, 4, 9, 4), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2)]
    net = nn.Sequential(nn.ReflectionPad1d((3, 5)), nn.AvgPool1d(2), nn.ReplicationPad1d((2, 0)), *head).eval()
    x = torch.randn(2, 1, 8000)
    torch.jit.trace(net, x).save(str(tmp_path / "net.pt"))
    model = load(tmp_path / "net.pt", axes="NCL", size=8000, channels=1)
    asked = ExportRequest(path=tmp_path / "e.onnx", method=method("lrp-eps"), target="1", baseline="zero")
    export(model, asked)
    assert asked.path.stat().st_size < 1_000_000
    said = explain(model, x, "lrp-eps", 1, "zero").relevance.numpy()
    np.testing.assert_allclose(opened(asked.path).run({"input": x})["relevance"], said, atol=1e-4 * abs(said).max())
    torch.jit.trace(nn.Sequential(nn.AvgPool1d(3, 1), *head).eval(), x).save(str(tmp_path / "windows.pt"))
    with pytest.raises(UsageError, match="would be a matrix of more than 16,777,216 numbers"):
        export(load(tmp_path / "windows.pt", axes="NCL", size=8000, channels=1), asked)


@pytest.mark.slow
def test_square_weights_in_openvino(tmp_path: Path) -> None:
    """OpenVINO confuses those that a convolution and its transpose share, or two dense layers."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 4),
    ).eval()  # fmt: skip
    model = networks.load(net, tmp_path, shape=(3, 16, 16))
    note = export(model, ExportRequest(path=tmp_path / "e.onnx", method=method("lrp-epsilon-plus")))
    for count in (1, 8):
        batch = torch.randn(count, 3, 16, 16)
        assert_says(in_openvino(tmp_path / "e.onnx", note, batch), explain(model, batch, "lrp-epsilon-plus"))


@pytest.mark.slow
def test_indices_of_large_batches_in_openvino(tmp_path: Path) -> None:
    """ONNX counts the indices of maxima through the batch: beyond 2^24, where float32 skips integers."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 32, 3, 1, 1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 32 * 32, 4)).eval()
    model = networks.load(net, tmp_path, shape=(3, 64, 64))
    note = export(model, ExportRequest(path=tmp_path / "e.onnx", method=method("gradient")))
    batch = torch.randn(2**24 // (32 * 64 * 64) + 2, 3, 64, 64)
    assert_says(in_openvino(tmp_path / "e.onnx", note, batch), explain(model, batch, "gradient"))


@pytest.mark.parametrize("which", ["residual", pytest.param("animals", marks=pytest.mark.slow)])
def test_a_network_with_pooling_and_sums(tmp_path: Path, which: str) -> None:
    model = load() if which == "animals" else networks.load(networks.network(which), tmp_path)
    assert_exported(model, tmp_path / "explained.onnx", "lrp-epsilon-plus", target="1", baseline="blur")


def test_pixels_and_the_class_in_and_bytes_out(digits: Model, tmp_path: Path) -> None:
    outputs = ("logits", "relevance", "heatmap", "biases", "ledger")
    path, asked = tmp_path / "e.pt2", {"target": "input", "outputs": outputs, "preprocess": True, "u8": True}
    export(digits, ExportRequest(path=path, method=method("lrp-eps"), **asked))
    batch, classes = pictures(digits, 3), torch.tensor([4, 0, 9])
    pixels = (digits.pictures.pixels(batch) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    found = opened(path).run({"pixels": pixels, "target": classes})
    assert_says(found, explain(digits, batch, "lrp-eps", classes))
    scale = found["heatmap_scale"][:, None, None]
    back = (found["heatmap_u8"].astype(np.float32) - 128) * scale / 127
    assert np.abs(back - found["heatmap"]).max() <= scale.max() / 127


def test_layers_are_booked_as_the_walk_passes_them() -> None:
    """ONNX Runtime runs the later input first, so the first layer's booking stands last."""
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    walk = [node("Exp", ["input"], ["first"]), node("Sin", ["first"], ["second"]), node("Neg", ["second"], ["heatmap"])]
    books = [node("ReduceSum", ["first"], ["a"]), node("ReduceSum", ["second"], ["b"])]
    ledger = node("Concat", ["a", "b"], ["ledger"], axis=0)
    nodes = [walk[0], books[0], walk[1], books[1], walk[2], ledger]
    outputs = [value("heatmap", 1, [2, 2]), value("ledger", 1, [2, 1])]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [value("input", 1, [2, 2])], outputs))
    _book_early(model.graph)
    assert list(model.graph.node) == [*walk, books[1], books[0], ledger]
    onnx.checker.check_model(model, full_check=True)


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"outputs": ("heatmaps",)}, "heatmaps"),
        ({"outputs": ("heatmap", "heatmap")}, "twice"),
        ({"target": "eleven"}, "eleven"),
        ({"target": "11"}, "classes 0 to 9"),
        ({"path": Path("explained.tflite")}, "name it so"),
        ({"path": Path("no/such/folder/explained.onnx")}, "no folder"),
        ({"path": Path(__file__).parent}, "name it so"),
        ({"method": method("smoothgrad")}, "draws at random"),
        ({"method": method("occlusion")}, "many images"),
        ({"baseline": "bluer"}, "bluer"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_no_file(
    digits: Model, tmp_path: Path, asked: dict[str, Any], says: str
) -> None:
    request = {"path": tmp_path / "explained.onnx", "method": method("lrp-eps"), **asked}
    with pytest.raises(UsageError, match=says) as raised:
        export(digits, ExportRequest(**request))
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_the_model_itself_is_not_overwritten(tmp_path: Path) -> None:
    copy = tmp_path / "digits.onnx"
    copy.write_bytes((MODELS / "digits.onnx").read_bytes())
    with pytest.raises(UsageError, match="the model itself"):
        export(load(copy), ExportRequest(path=copy, method=method("lrp-eps")))
    assert copy.read_bytes() == (MODELS / "digits.onnx").read_bytes()


def test_a_model_of_one_batch_size_is_exported_for_that(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    traced = torch.export.export(net.eval(), (torch.zeros(2, 3, 2, 2),))
    torch.export.save(traced, tmp_path / "fixed.pt2")
    model = load(tmp_path / "fixed.pt2", size=(2, 2), mean=0.5, std=0.5)
    for suffix in (".onnx", ".pt2"):
        path = tmp_path / f"e{suffix}"
        export(model, ExportRequest(path=path, method=method("lrp-eps")))
        batch = torch.randn(2, 3, 2, 2)
        assert_says(opened(path).run({"input": batch}), explain(model, batch, "lrp-eps"))
    assert [d.dim_value for d in onnx.load(tmp_path / "e.onnx").graph.input[0].type.tensor_type.shape.dim] == [
        2,
        3,
        2,
        2,
    ]


def test_a_model_that_takes_two_images_alone_is_exported_for_two(tmp_path: Path) -> None:
    """It says so only when it is asked about three."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("shift", torch.randn(2, 12))
            self.head = nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x.flatten(1) + self.shift)

    torch.jit.trace(Pair(), torch.zeros(2, 3, 2, 2)).save(str(tmp_path / "pair.pt"))
    model = load(tmp_path / "pair.pt", size=(2, 2), mean=0.5, std=0.5)
    export(model, ExportRequest(path=tmp_path / "e.onnx", method=method("gradient")))
    batch = torch.randn(2, 3, 2, 2)
    assert_says(opened(tmp_path / "e.onnx").run({"input": batch}), explain(model, batch, "gradient"))


# --- nothing of the example stays ---------------------------------------------------------------------------------


def of_two_sizes(function: Any) -> Any:
    """A function written down for two and for three images, each of its own noise, and joined."""
    from heatcli.system.torch_private import make_fx

    return joined(*(make_fx(function)(torch.rand(n, 4)) for n in (2, 3)), 2, 3)


def test_sizes_that_follow_the_batch_are_computed() -> None:
    record = of_two_sizes(lambda x: torch.cat([x, x.new_ones(len(x) + 1, 4)]).reshape(2 * len(x) + 1, 2, 2))
    for n in (1, 5):
        assert record(torch.rand(n, 4)).shape == (2 * n + 1, 2, 2)


def test_a_number_of_the_example_is_found() -> None:
    with pytest.raises(FrozenError, match="depends on the example"):
        of_two_sizes(lambda x: x * float(np.float32(x.shape[0] * 0.37)))


def test_a_constant_of_the_example_is_found() -> None:
    frozen = [torch.rand(4) for _ in range(2)]
    with pytest.raises(FrozenError, match="depends on the example"):
        of_two_sizes(lambda x: x + frozen[len(x) - 2])


def test_what_a_constant_repeats_for_each_image_is_repeated() -> None:
    states = torch.rand(3, 1, 4)
    record = of_two_sizes(lambda x: x + states.repeat(1, len(x), 1).sum(0))
    x = torch.rand(5, 4)
    torch.testing.assert_close(record(x), x + states.sum(0))


def test_what_is_drawn_at_random_is_found() -> None:
    with pytest.raises(FrozenError, match="draws at random"):
        of_two_sizes(lambda x: x + torch.rand(4))


def test_another_order_of_operators_is_found() -> None:
    with pytest.raises(FrozenError, match="operators are others"):
        of_two_sizes(lambda x: x.relu() if len(x) == 2 else x.exp())


def test_a_record_that_computes_something_else_than_the_walk_is_refused() -> None:
    inputs = [torch.randn(3, 4)]
    verify_record(lambda x: [2 * x], lambda x: [x + x], ("heatmap",), inputs)
    with pytest.raises(UsageError, match=r"another heatmap, 0\.5 of the largest"):
        verify_record(lambda x: [x], lambda x: [2 * x], ("heatmap",), inputs)


# --- what is written is what torch computes -----------------------------------------------------------------------


def of(net: nn.Module, folder: Path, size: tuple[int, int] = (9, 9)) -> Model:
    """The network as TorchScript, loaded."""
    torch.jit.script(net.eval()).save(str(folder / "net.pt"))
    return load(folder / "net.pt", size=size, mean=0.5, std=0.5)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
def test_a_resize_by_a_factor_is_that_in_onnx(tmp_path: Path) -> None:
    """torch's own exporter writes a resize to the rounded size, 13 of 9 · 1.5 = 13.5, which is another function."""
    layers = nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=1.5, mode="bilinear"), nn.ReLU(), nn.Flatten()
    model = of(nn.Sequential(*layers, nn.Linear(4 * 10 * 10, 3)), tmp_path)
    export(model, ExportRequest(path=tmp_path / "e.onnx", method=method("lrp-eps")))
    batch = torch.randn(2, 3, 9, 9)
    assert_says(opened(tmp_path / "e.onnx").run({"input": batch}), explain(model, batch, "lrp-eps"))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
def test_circular_padding_starts_from_nothing(tmp_path: Path) -> None:
    """Memory that torch allocates and then fills is a constant of the graph: zeros, not what lay there."""
    padded = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")
    model = of(nn.Sequential(padded, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 81, 3)), tmp_path)
    export(model, ExportRequest(path=tmp_path / "e.onnx", method=method("lrp-eps")))
    batch = torch.randn(5, 3, 9, 9)
    assert_says(opened(tmp_path / "e.onnx").run({"input": batch}), explain(model, batch, "lrp-eps"))


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".pt"])
def test_an_artifact_that_computes_something_else_is_refused(recorded: Recording, tmp_path: Path, suffix: str) -> None:
    """One output is half as large again."""
    path, content = tmp_path / f"e{suffix}", recorded.content(WRITERS[suffix])
    verify(content, recorded.record, recorded.note, recorded.unseen, path)
    for wrong in ("output", "relevance", "biases"):

        def other(*inputs: Tensor, wrong: str = wrong) -> list[Tensor]:
            found = zip(recorded.note.outputs, recorded.record(*inputs), strict=True)
            return [1.5 * x if name == wrong else x for name, x in found]

        with pytest.raises(UsageError, match=f"computes another {wrong} than torch, 0.33 of the largest"):
            verify(content, other, recorded.note, recorded.unseen, path)
    assert not path.exists()


def test_a_record_after_an_explanation_is_the_same(digits: Model) -> None:
    """What `explain` keeps of the weights is in no record."""
    asked = ExportRequest(path=Path("e.onnx"), method=method("lrp-alpha2-beta1"))
    before = recording(load(MODELS / "digits.onnx"), asked).record.code
    explain(digits, pictures(digits, 2), "lrp-alpha2-beta1")
    assert recording(digits, asked).record.code == before


def test_the_exporter_says_nothing_of_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of max pooling with two outputs onnxscript logs that it folds no constants."""
    layers = nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 2, (1, 3, 3)), nn.ReLU(), nn.MaxPool3d((1, 2, 2)), nn.Flatten()
    net = nn.Sequential(*layers, nn.Linear(54, 2)).eval()
    example = torch.export.export(net, (torch.zeros(1, 3, 8, 8),))
    torch.export.save(example, tmp_path / "net.pt2")
    model = load(tmp_path / "net.pt2", size=(8, 8), mean=0.5, std=0.5)
    export(model, ExportRequest(path=tmp_path / "e.onnx", method=method("deeplift-rescale"), baseline="zero"))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    batch = torch.randn(1, 3, 8, 8)
    said = explain(model, batch, "deeplift-rescale", baseline="zero")
    assert_says(opened(tmp_path / "e.onnx").run({"input": batch}), said)
