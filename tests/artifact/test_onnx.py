"""ONNX in the wild: the zoo's old models, quantised models, data outside the file, damaged graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import onnxruntime
import pytest
import torch
from conftest import MODELS, SAMPLES, Cli
from onnx import TensorProto, external_data_helper, helper, numpy_helper

import heatcli
from heatcli.errors import ModelError

LIGHT = Path(onnx.backend.test.__file__).parent / "data" / "light"
FAST = {"light_squeezenet", "light_shufflenet"}


def _zoo() -> list[object]:
    names = sorted(path.stem for path in LIGHT.glob("*.onnx"))
    return [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", _zoo())
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_opset_9_models(name: str) -> None:
    """The zoo's models as the onnx package ships them: ONNX Runtime's logits, a ledger that balances.

    Not its probabilities: the weights are constants, so all logits are equal, and above 1e9, where neighbouring float32
    numbers are 64 apart and more: one that a kernel rounds the other way gets a probability of 1 in place of 0.001.
    """
    path = LIGHT / f"{name}.onnx"
    model, proto = heatcli.load(path), onnx.load(path)
    last = proto.graph.node[-1]
    logits = last.input[0] if last.op_type == "Softmax" else last.output[0]
    proto.graph.output.insert(0, helper.make_empty_tensor_value_info(logits))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    batch = torch.randn(1, *model.shape, generator=torch.Generator().manual_seed(0))
    expected = session.run([logits], {session.get_inputs()[0].name: batch.numpy()})[0].reshape(1, -1)
    for method in ("lrp-eps", "deeplift-rescale"):
        result = heatcli.explain(model, batch, method)
        assert float(result.ledger.relative_error.max()) < 1e-4
        assert not result.unexplained
        assert np.abs(result.outputs.numpy() - expected).max() <= 1e-4 * np.abs(expected).max()


def _quantised(path: Path) -> Path:
    """digits.onnx with its input and first convolution's output quantised to 8 bits and back (QDQ)."""
    proto = onnx.load(MODELS / "digits.onnx")
    nodes = list(proto.graph.node)
    first = next(node for node in nodes if node.op_type == "Conv")
    for name, scale in ((first.input[0], 1 / 255), (first.output[0], 0.05)):
        proto.graph.initializer.append(numpy_helper.from_array(np.float32(scale), f"{name}_scale"))
        proto.graph.initializer.append(numpy_helper.from_array(np.int8(0), f"{name}_zero"))
        more = [f"{name}_scale", f"{name}_zero"]
        for node in nodes:
            for i, read in enumerate(node.input):
                if read == name:
                    node.input[i] = f"{name}_back"
        nodes.append(helper.make_node("QuantizeLinear", [name, *more], [f"{name}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", *more], [f"{name}_back"]))
    order = {"x": 0, **{node.output[0]: i for i, node in enumerate(proto.graph.node)}}
    nodes.sort(key=lambda node: order.get(node.output[0].split("_q")[0].split("_back")[0], -1))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    onnx.save(proto, path)
    return path


def test_quantised_models_are_explained_as_they_compute(cli: Cli, tmp_path: Path) -> None:
    """Q/DQ pairs round and cut off as ONNX Runtime does; the user and the report are told that it is quantised."""
    path = _quantised(tmp_path / "q.onnx")
    model, batch = heatcli.load(path), torch.rand(2, 1, 28, 28)
    assert model.artifact.runtime is not None
    (expected,) = model.artifact.runtime([batch])
    probabilities = heatcli.explain(model, batch, "lrp-0").outputs.softmax(1)
    assert float((probabilities - expected).abs().max()) < 1e-3
    ran = cli("explain", SAMPLES / "digits" / "8-a.png", "--model", path, "--json")
    assert "q.onnx is quantised: it is explained in real numbers; where it cuts values off is a clamp" in ran.err
    assert '"dequantise"' in ran.out


def _with_outside_data(folder: Path, location: str) -> Path:
    proto = onnx.load(MODELS / "digits.onnx")
    for tensor in proto.graph.initializer:
        if tensor.raw_data and len(tensor.raw_data) > 1000:
            external_data_helper.set_external_data(tensor, location)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
    path = folder / "outside.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "missing.bin"])
def test_data_outside_its_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_bytes(bytes(10_000_000))
    with pytest.raises(ModelError) as error:
        heatcli.load(_with_outside_data(tmp_path / "in", location))
    assert "\n" not in str(error.value)


def test_data_beside_the_file_is_read(tmp_path: Path) -> None:
    proto = onnx.load(MODELS / "digits.onnx")
    onnx.save_model(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=100)
    batch = torch.rand(1, 1, 28, 28)
    a, b = (heatcli.explain(heatcli.load(p), batch) for p in (MODELS / "digits.onnx", tmp_path / "m.onnx"))
    assert torch.equal(a.relevance, b.relevance)


def test_operators_nobody_knows_are_named(tmp_path: Path) -> None:
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain="com.example")
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 4, 4]) for name in ("x", "y")]
    graph = helper.make_graph([node], "test", info[:1], info[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="Frobnicate") as error:
        heatcli.explain(heatcli.load(tmp_path / "m.onnx"), torch.zeros(1, 3, 4, 4))
    assert "\n" not in str(error.value)


class _Standardised(torch.nn.Module):
    """A convolution whose weights are standardised by a batch norm in training mode, or one that does so to `x`."""

    def __init__(self, weights: bool) -> None:
        super().__init__()
        self.weights, self.convolution = weights, torch.nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.convolution.weight
        if self.weights:
            rows = weight.reshape(1, 4, -1)
            weight = torch.nn.functional.batch_norm(rows, None, None, training=True).reshape(weight.shape)
        else:
            x = torch.nn.functional.batch_norm(x, None, None, torch.ones(3), torch.zeros(3), training=True)
        return torch.nn.functional.conv2d(x, weight, self.convolution.bias).relu().mean((2, 3))


def _exported(net: _Standardised, path: Path) -> Path:
    axes = {"dynamic_axes": {"x": {0: "n"}}} if net.weights else {}  # torch needs the shape of what it normalises
    example = torch.rand(2, 3, 8, 8)
    torch.onnx.export(net, (example,), str(path), dynamo=False, opset_version=17, input_names=["x"], **axes)
    return path


@pytest.mark.filterwarnings("ignore")
def test_a_batch_norm_of_weights_has_their_own_statistics(tmp_path: Path) -> None:
    """Networks without normalisers (NFNet) are exported so; the weights are the same for every image."""
    torch.manual_seed(0)
    path, x = _exported(_Standardised(weights=True).eval(), tmp_path / "m.onnx"), torch.rand(3, 3, 8, 8)
    found = heatcli.explain(heatcli.load(path, size=(8, 8)), x, "lrp-eps")
    (expected,) = onnxruntime.InferenceSession(str(path)).run(None, {"x": x.numpy()})
    np.testing.assert_allclose(found.outputs.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert float(found.ledger.relative_error.max()) < 1e-5


@pytest.mark.filterwarnings("ignore")
def test_a_batch_norm_of_images_by_their_own_statistics_is_refused(tmp_path: Path) -> None:
    path = _exported(_Standardised(weights=False).eval(), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="normalises in training mode"):
        heatcli.explain(heatcli.load(path, size=(8, 8)), torch.rand(2, 3, 8, 8), "lrp-eps")
