"""Small models of each format, and seeded mutations of them: of their bytes, and of what the bytes stand for."""

from __future__ import annotations

import copy
import io
import json
import random as randomness
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from malice import EXAMPLE, Small, damaged, entries_of, honest, zipped
from torch import Tensor, nn

Files = dict[str, bytes]  # a model: the content of "model", and of files beside it by name
_NUMBERS = (0, -1, 1, 2, 3, 7, 255, 2**31 - 1, -(2**31), 2**31, 2**32, 10**12, 2**63 - 1, -(2**63))
_TEXTS = (
    "",
    "x",
    "input",
    "\x1b[31mred",
    "a\nb",
    "../../etc/passwd",
    "A" * 5_000,
    "é\u2028",
    "ai.onnx",
    "Conv",
    "Loop",
)


class Branching(nn.Module):
    """Loops as often as a number says, and decides by another."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.convs = nn.ModuleList([nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)])
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 4)
        self.times = 2

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = torch.relu(conv(x))
        for i in range(self.times):
            x = self.norm(x) + float(i)
        if x.dim() == 4:
            x = torch.nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.head(x)


def models() -> dict[str, dict[str, Files]]:
    """Sound models of each format, by name."""
    made = honest()
    script, traced, program = io.BytesIO(), io.BytesIO(), io.BytesIO()
    network = Branching().eval()
    torch.jit.save(torch.jit.script(network), script)
    torch.jit.save(torch.jit.trace(network, EXAMPLE), traced)
    torch.export.save(torch.export.export(network, (EXAMPLE,)), program)
    return {
        "torchscript": {
            "small": {"model": made["torchscript"]}, "scripted": {"model": script.getvalue()},
            "traced": {"model": traced.getvalue()},
        },
        "pt2": {"small": {"model": made["pt2"]}, "branching": {"model": program.getvalue()}},
        "onnx": {f"opset {opset}": {"model": plain(opset).SerializeToString()} for opset in (7, 11, 13, 17, 21)}
        | {
            "control": {"model": control().SerializeToString()},
            "quantised": {"model": quantised().SerializeToString()},
        },
        "onnx beside": {"opset 17": beside(plain(17))},
    }  # fmt: skip


# --- ONNX -------------------------------------------------------------------------------------------------------------


def plain(opset: int) -> Any:
    """A convolution, a pooling and a dense layer, as an ONNX model."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    small = Small().eval()
    weights = {name: tensor.detach().numpy() for name, tensor in small.state_dict().items()}
    nodes = [
        helper.make_node("Conv", ["x", "weight", "bias"], ["c"], name="conv", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Mul", ["r", "scale"], ["m"], name="mul"),
        helper.make_node("GlobalAveragePool", ["m"], ["g"], name="pool"),
        helper.make_node("Reshape", ["g", "shape"], ["y"], name="flat"),
    ]
    initial = [
        numpy_helper.from_array(weights["conv.weight"], "weight"),
        numpy_helper.from_array(weights["conv.bias"], "bias"),
        numpy_helper.from_array(weights["scale"], "scale"),
        helper.make_tensor("shape", TensorProto.INT64, [2], [0, -1]),
    ]
    return _model(nodes, initial, opset, onnx)


def control() -> Any:
    """A Loop, an If and a function."""
    import onnx
    from onnx import TensorProto, helper

    def value(name: str, kind: int, shape: Any) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    body = helper.make_graph(
        [helper.make_node("Relu", ["v"], ["w"]), helper.make_node("Identity", ["go"], ["on"])], "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("v", 1, None)],
        [value("on", TensorProto.BOOL, []), value("w", 1, None)],
    )  # fmt: skip
    branches = [
        helper.make_graph([helper.make_node(kind, ["l"], ["b"])], kind, [], [value("b", 1, None)])
        for kind in ("Tanh", "Sigmoid")
    ]
    function = helper.make_function(
        "own", "Half", ["a"], ["h"],
        [
            helper.make_node("Constant", [], ["half"], value_float=0.5),
            helper.make_node("Mul", ["a", "half"], ["h"]),
        ],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    nodes = [
        helper.make_node("Loop", ["times", "", "x"], ["l"], name="loop", body=body),
        helper.make_node("If", ["yes"], ["b"], name="if", then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Half", ["b"], ["h"], name="half", domain="own"),
        helper.make_node("ReduceMean", ["h"], ["y"], name="mean", axes=[2, 3], keepdims=0),
    ]
    initial = [
        helper.make_tensor("times", TensorProto.INT64, [], [3]),
        helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
    ]
    model = _model(nodes, initial, 17, onnx, classes=3)
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    return model


def quantised() -> Any:
    """A quantised dense layer behind a pooling."""
    import onnx
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("QuantizeLinear", ["f", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["wq", "s", "z"], ["w"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    initial = [
        helper.make_tensor("s", TensorProto.FLOAT, [], [0.02]), helper.make_tensor("z", TensorProto.UINT8, [], [128]),
        helper.make_tensor("wq", TensorProto.UINT8, [3, 4], list(range(100, 160, 5))),
    ]  # fmt: skip
    return _model(nodes, initial, 13, onnx)


def _model(nodes: list[Any], initial: list[Any], opset: int, onnx: Any, classes: int = 4) -> Any:
    helper = onnx.helper
    inputs = [helper.make_tensor_value_info("x", 1, ["n", 3, 8, 8])]
    if opset < 9:  # there, initialisers are inputs, too
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in initial]
    outputs = [helper.make_tensor_value_info("y", 1, ["n", classes])]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initial)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)


def beside(model: Any) -> Files:
    """The model, its weights in a file beside it."""
    model = copy.deepcopy(model)
    data = b""
    for tensor in model.graph.initializer:
        raw = tensor.raw_data
        if not raw:
            continue
        tensor.ClearField("raw_data")
        tensor.data_location = 1
        for key, value in (("location", "weights"), ("offset", len(data)), ("length", len(raw))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
        data += raw
    return {"model": model.SerializeToString(), "weights": data}


def onnx_changed(content: bytes, random: randomness.Random) -> bytes:
    """The model with one field of one of its messages changed, left out, doubled, or taken from elsewhere in it."""
    import onnx

    model = onnx.ModelProto.FromString(content)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        messages = list(_messages(model))
        message = random.choice(messages)
        field = random.choice(list(message.DESCRIPTOR.fields))
        try:
            _change(message, field, messages, random)
        except (ValueError, TypeError):  # a number that the field cannot hold, a text that is no UTF-8
            continue
    return bytes(model.SerializeToString())


def _messages(message: Any) -> Iterator[Any]:
    """A message and those inside."""
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in value if _repeats(field) else [value]:
                yield from _messages(inner)


def _repeats(field: Any) -> bool:
    return bool(field.is_repeated)


def _change(message: Any, field: Any, others: list[Any], random: randomness.Random) -> None:
    held = getattr(message, field.name)
    if random.random() < 0.15:
        message.ClearField(field.name)
    elif field.type == field.TYPE_MESSAGE:
        alike = [m for m in others if m.DESCRIPTOR is field.message_type]
        if not _repeats(field):
            held.CopyFrom(copy.deepcopy(random.choice(alike))) if alike else held.SetInParent()
        elif len(held) and random.random() < 0.4:
            del held[random.randrange(len(held))]
        elif len(held) > 1 and random.random() < 0.5:
            i, j = random.randrange(len(held)), random.randrange(len(held))
            one, two = copy.deepcopy(held[i]), copy.deepcopy(held[j])
            held[i].CopyFrom(two)
            held[j].CopyFrom(one)
        else:
            held.add().CopyFrom(copy.deepcopy(random.choice(alike))) if alike else held.add()
    else:
        value = _scalar(field, others, random)
        if not _repeats(field):
            setattr(message, field.name, value)
        elif len(held) and random.random() < 0.7:
            held[random.randrange(len(held))] = value
        else:
            held.append(value)


def _scalar(field: Any, others: list[Any], random: randomness.Random) -> Any:
    if field.type == field.TYPE_STRING:
        names = [name for m in others if m.DESCRIPTOR.name == "NodeProto" for name in (*m.input, *m.output, m.op_type)]
        return random.choice((*_TEXTS, *names, *names))
    if field.type == field.TYPE_BYTES:
        return random.choice((b"", b"\xff\xfe", random.randbytes(random.randrange(100)), bytes(1 << 16)))
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return random.choice((0.0, -1.0, float("nan"), float("inf"), 3e38))
    if field.type == field.TYPE_ENUM:
        return random.randrange(24)
    return random.choice((*_NUMBERS, random.randrange(30)))


# --- torch.export -----------------------------------------------------------------------------------------------------


def program_changed(content: bytes, random: randomness.Random) -> bytes:
    """The archive with one value of one of its JSON texts changed, left out or doubled; its checksums are right."""
    entries = entries_of(content)
    name = random.choice([n for n in entries if n.endswith(".json")] + ["models/model.json"] * 4)
    whole = json.loads(entries[name])
    for _ in range(random.choice((1, 1, 2))):
        places = list(_places(whole))
        if places:
            _replace(*random.choice(places), [value[key] for value, key in places], random)
    return zipped({**entries, name: json.dumps(whole).encode()})


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def _replace(holder: Any, key: Any, others: list[Any], random: randomness.Random) -> None:
    kind = random.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    elif kind == 2:
        holder[key] = copy.deepcopy(random.choice(others))
    else:
        holder[key] = random.choice((*_NUMBERS, *_TEXTS, None, True, 0.5, [], {}, [[]], "as_int", 1e400, "Infinity"))


# --- TorchScript ------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")


def script_changed(content: bytes, random: randomness.Random) -> bytes:
    """The archive with a word of its code changed, a line moved, or a byte of its tables; its checksums are right."""
    entries = entries_of(content)
    if random.random() < 0.25:
        name = random.choice([n for n in entries if n.endswith(".pkl")])
        return zipped({**entries, name: damaged(entries[name], random)})
    name = random.choice([n for n in entries if n.startswith("code/") and n.endswith(".py")])
    return zipped({**entries, name: _code_changed(entries[name].decode(), random).encode()})


def _code_changed(code: str, random: randomness.Random) -> str:
    if random.random() < 0.25:
        lines = code.splitlines(keepends=True)
        i, j = random.randrange(len(lines)), random.randrange(len(lines))
        random.choice((
            lambda: lines.__setitem__(i, lines[j]), lambda: lines.insert(i, lines[j]), lambda: lines.__delitem__(i),
        ))()  # fmt: skip
        return "".join(lines)
    tokens = _TOKEN.findall(code)
    i = random.randrange(len(tokens))
    words = (
        *map(str, _NUMBERS),
        "None",
        "True",
        "x",
        "self",
        "torch",
        "[]",
        "{}",
        '""',
        "0.5",
        "inf",
        "while",
        "Tensor",
    )
    tokens[i] = random.choice((*words, random.choice(tokens), random.choice(tokens), "", tokens[i] * 2))
    return "".join(tokens)


# --- all --------------------------------------------------------------------------------------------------------------

_CHANGED: dict[str, Callable[[bytes, randomness.Random], bytes]] = {
    "torchscript": script_changed, "pt2": program_changed, "onnx": onnx_changed, "onnx beside": onnx_changed,
}  # fmt: skip


def mutants(format: str, sound: dict[str, Files], seed: int, count: int) -> Iterator[tuple[str, Files]]:
    """So many mutants of the sound models of a format, each with a name that says how to make it again."""
    names = list(sound)
    for number in range(count):
        random = randomness.Random(f"{seed} {number}")
        name = names[number % len(names)]
        files = dict(sound[name])
        target = random.choice(sorted(files))
        changed = _CHANGED[format] if target == "model" and random.random() < 0.7 else damaged
        files[target] = changed(files[target], random)
        yield f"{name}, {number}, {changed.__name__} {target}", files


def laid_out(folder: Path, files: Files) -> Path:
    """The files of a model in a folder; yields the path of the model."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder / "model"
