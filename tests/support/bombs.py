"""Small model files that cost much: time without end, or more memory than there is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from malice import entries_of, zipped
from mutants import Files, _model, beside, plain

_HUGE = 10**12


def bombs(good: dict[str, bytes]) -> Iterator[tuple[str, Files]]:
    """All of them by name; `good`: the honest archives of `malice`."""
    for name, statements in SCRIPTS.items():
        yield f"torchscript, {name}", {"model": _script(good["torchscript"], statements)}
    for name, (target, inputs) in PROGRAMS.items():
        yield f"pt2, {name}", {"model": _program(good["pt2"], target, inputs)}
    for name, made in ONNX.items():
        yield f"onnx, {name}", {"model": made().SerializeToString()}
    yield from (("onnx beside, " + name, files) for name, files in _beside())


# --- TorchScript -------------------------------------------------------------------------------------------------------

SCRIPTS = {
    "zeros": f"_z = torch.zeros([{_HUGE}])\n    x = torch.add(x, torch.select(_z, 0, 0))",
    "expand": f"_z = torch.expand(torch.slice(torch.reshape(x, [-1]), 0, 0, 1), [{_HUGE}])\n    x = torch.add(x, torch.select(_z, 0, 0))",
    "sum of an expand": f"_z = torch.sum(torch.expand(torch.zeros([1]), [{_HUGE}]))\n    x = torch.add(x, _z)",
    "repeat": "_z = torch.repeat(x, [1, 1, 100000, 100000])\n    x = torch.slice(_z, 2, 0, 8)",
    "arange": f"_z = torch.arange({_HUGE})\n    x = torch.add(x, torch.select(_z, 0, 0))",
    "while": "_i = 0\n    while True:\n      _i = torch.add(_i, 1)",
    "while with tensors": "_i = x\n    while True:\n      _i = torch.relu(_i)",
    "for": f"_i = x\n    for _j in range({_HUGE}):\n      _i = torch.relu(_i)",
    "list": "_l = annotate(List[int], [])\n    while True:\n      _k = torch.append(_l, 1)",
    "doubling": "_l = x\n    while True:\n      _l = torch.cat([_l, _l], 0)",
    "recursion": "x = (self).forward(x, )",
    "text": '_t = "aaaaaaaa"\n    while True:\n      _t = torch.add(_t, _t)',
}  # fmt: skip


def _script(content: bytes, statements: str) -> bytes:
    entries = entries_of(content)
    main = next(name for name in entries if b"class Small(" in entries[name] and name.endswith(".py"))
    code = entries[main].decode()
    start = code.index(") -> Tensor:\n") + len(") -> Tensor:\n")
    return zipped({**entries, main: f"{code[:start]}    {statements}\n{code[start:]}".encode()})


# --- torch.export ------------------------------------------------------------------------------------------------------


def _named(name: str, **value: Any) -> dict[str, Any]:
    return {"name": name, "arg": value, "kind": 1}


PROGRAMS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "zeros": ("torch.ops.aten.zeros.default", [_named("size", as_ints=[_HUGE])]),
    "full": ("torch.ops.aten.full.default", [_named("size", as_ints=[10**6, 10**6]), _named("fill_value", as_float=1.0)]),
    "arange": ("torch.ops.aten.arange.default", [_named("end", as_int=_HUGE)]),
    "repeat": (
        "torch.ops.aten.repeat.default",
        [_named("self", as_tensor={"name": "x"}), _named("repeats", as_ints=[1, 1, 10**6, 10**6])],
    ),
    "pad": (
        "torch.ops.aten.constant_pad_nd.default",
        [_named("self", as_tensor={"name": "x"}), _named("pad", as_ints=[0, _HUGE])],
    ),
}  # fmt: skip


def _program(content: bytes, target: str, inputs: list[dict[str, Any]]) -> bytes:
    entries = entries_of(content)
    program = json.loads(entries["models/model.json"])
    graph = program["graph_module"]["graph"]
    graph["tensor_values"]["evil"] = dict(graph["tensor_values"]["relu"])
    node = {
        "target": target, "inputs": inputs, "outputs": [{"as_tensor": {"name": "evil"}}], "metadata": {},
        "is_hop_single_tensor_return": None, "name": "evil",
    }  # fmt: skip
    graph["nodes"].insert(0, node)
    return zipped({**entries, "models/model.json": json.dumps(program).encode()})


# --- ONNX --------------------------------------------------------------------------------------------------------------


def _made(*nodes: Any, **constants: Any) -> Any:
    """A model of these nodes from `x` to `z`, and the mean of `z` as its output."""
    import onnx
    from onnx import helper

    initial = [
        helper.make_tensor(name, 1 if isinstance(values[0], float) else 9 if isinstance(values[0], bool) else 7,
                           [len(values)] if name[-1] != "_" else [], values)
        for name, values in constants.items()
    ]  # fmt: skip
    last = helper.make_node("ReduceMean", ["z"], ["y"], axes=[2, 3], keepdims=0)
    return _model(
        [*(helper.make_node(op, ins, outs, **more) for op, ins, outs, more in nodes), last], initial, 13, onnx, 3
    )


def _first(name: str) -> tuple[Any, ...]:
    """Nodes that add the first number of a huge value to the picture."""
    return (
        ("Gather", [name, "first_"], ["one"], {}), ("Cast", ["one"], ["number"], {"to": 1}),
        ("Add", ["x", "number"], ["z"], {}),
    )  # fmt: skip


def _initialiser(dims: list[int], **fields: Any) -> Any:
    import onnx

    model = plain(13)
    weight = model.graph.initializer[0]
    del weight.dims[:]
    weight.dims.extend(dims)
    weight.ClearField("raw_data")
    for key, value in fields.items():
        setattr(weight, key, value) if isinstance(value, (bytes, int)) else getattr(weight, key).extend(value)
    return onnx.ModelProto.FromString(model.SerializeToString())


def _sparse() -> Any:
    from onnx import helper

    model = _made(*_first("w"), first_=[0])
    values = helper.make_tensor("w", 1, [1], [1.0])
    indices = helper.make_tensor("i", 7, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [_HUGE]))
    return model


def _loop(body: str, times: list[int] | None) -> Any:
    import onnx
    from onnx import helper

    value = helper.make_tensor_value_info
    inner = helper.make_graph(
        [helper.make_node(body, ["v", "v"] if body in ("Concat", "Add") else ["v"], ["w"], **({"axis": 0} if body == "Concat" else {})),
         helper.make_node("Identity", ["go"], ["on"])],
        "body", [value("i", 7, []), value("go", 9, []), value("v", 1, None)], [value("on", 9, []), value("w", 1, None)],
    )  # fmt: skip
    constants: dict[str, Any] = {} if times is None else {"times_": times}
    return onnx.ModelProto.FromString(
        _made(("Loop", ["times_" if times else "", "yes_", "x"], ["z"], {"body": inner}), yes_=[True], **constants).SerializeToString()
    )  # fmt: skip


def _function(calls: list[str]) -> Any:
    """Functions that call one another: the n-th calls `calls[n]`, twice."""
    import onnx
    from onnx import helper

    model = _made(("F0", ["x"], ["z"], {"domain": "own"}))
    for number, called in enumerate(calls):
        nodes = [
            helper.make_node(called, ["a"], ["b"], domain="own" if called[0] == "F" else ""),
            helper.make_node(called, ["b"], ["c"], domain="own" if called[0] == "F" else ""),
        ]
        opsets = [helper.make_opsetid("", 13), helper.make_opsetid("own", 1)]
        model.functions.append(helper.make_function("own", f"F{number}", ["a"], ["c"], nodes, opsets))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.ir_version = 8
    return onnx.ModelProto.FromString(model.SerializeToString())


def _nested(depth: int, both: bool) -> Any:
    """Ifs in Ifs, in one branch or in both: then there are twice as many in each depth."""
    from onnx import helper

    value = helper.make_tensor_value_info("z", 1, None)
    last = graph = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "g", [], [value])
    for _ in range(depth):
        node = helper.make_node("If", ["yes_"], ["z"], then_branch=graph, else_branch=graph if both else last)
        graph = helper.make_graph([node], "g", [], [value])
    model = _made(yes_=[True])
    model.graph.node.insert(0, graph.node[0])
    return model


ONNX: dict[str, Callable[[], Any]] = {
    "initialiser of raw data": lambda: _initialiser([_HUGE], raw_data=bytes(8)),
    "initialiser without data": lambda: _initialiser([10**6, 10**6, 3, 3]),
    "initialiser of numbers": lambda: _initialiser([10**6, 10**6], float_data=[1.0]),
    "initialiser of a negative size": lambda: _initialiser([-4, -3, 3, 3], raw_data=bytes(432)),
    "initialiser that overflows": lambda: _initialiser([2**32, 2**32], raw_data=bytes(8)),
    "sparse initialiser": _sparse,
    "ConstantOfShape": lambda: _made(("ConstantOfShape", ["n"], ["h"], {}), *_first("h"), n=[_HUGE], first_=[0]),
    "Expand": lambda: _made(("Expand", ["c", "n"], ["h"], {}), *_first("h"), c=[1.0], n=[_HUGE], first_=[0]),
    "sum of an Expand": lambda: _made(
        ("Expand", ["c", "n"], ["h"], {}), ("ReduceSum", ["h"], ["s"], {"keepdims": 0}), ("Add", ["x", "s"], ["z"], {}),
        c=[1.0], n=[_HUGE],
    ),
    "Expand of the picture": lambda: _made(
        ("Expand", ["x", "n"], ["h"], {}), ("ReduceMean", ["h"], ["z"], {"axes": [0]}), n=[_HUGE, 1, 3, 8, 8],
    ),
    "Tile": lambda: _made(("Tile", ["x", "n"], ["z"], {}), n=[1, 1, 10**6, 10**6]),
    "Range": lambda: _made(("Range", ["a_", "b_", "c_"], ["h"], {}), *_first("h"), a_=[0], b_=[_HUGE], c_=[1], first_=[0]),
    "Resize": lambda: _made(("Resize", ["x", "", "s"], ["z"], {"mode": "linear"}), s=[1.0, 1.0, 1e6, 1e6]),
    "Pad": lambda: _made(("Pad", ["x", "p"], ["z"], {}), p=[0, 0, 0, 0, 0, 0, 10**6, 10**6]),
    "OneHot": lambda: _made(
        ("OneHot", ["i", "d_", "v"], ["h"], {}), ("Gather", ["h", "first_"], ["g"], {}),
        ("ReduceSum", ["g"], ["s"], {"keepdims": 0}), ("Add", ["x", "s"], ["z"], {}),
        i=[0], d_=[_HUGE], v=[0.0, 1.0], first_=[0],
    ),
    "attribute of a huge kernel": lambda: _made(("MaxPool", ["x"], ["z"], {"kernel_shape": [10**9, 10**9], "pads": [10**9] * 4})),
    "AveragePool of huge pads": lambda: _made(("AveragePool", ["x"], ["z"], {"kernel_shape": [9, 9], "pads": [10**5] * 4})),
    "Loop without end": lambda: _loop("Relu", None),
    "Loop of many": lambda: _loop("Relu", [_HUGE]),
    "Loop that doubles": lambda: _loop("Concat", [60]),
    "function that calls itself": lambda: _function(["F0"]),
    "functions in a circle": lambda: _function(["F1", "F2", "F0"]),
    "functions that double": lambda: _function([f"F{i + 1}" for i in range(30)] + ["Relu"]),
    "Ifs in Ifs": lambda: _nested(12, both=True),
    "Ifs in Ifs, deep": lambda: _nested(28, both=False),
    "Concat that doubles": lambda: _made(
        *(("Concat", [f"v{i}" if i else "x"] * 2, [f"v{i + 1}" if i < 39 else "z"], {"axis": 2}) for i in range(40))
    ),
}  # fmt: skip


def _beside() -> Iterator[tuple[str, Files]]:
    """External data that is not there, or is said to lie elsewhere."""
    import onnx

    good = beside(plain(17))
    for key, value in (
        ("location", "/etc/passwd"), ("location", "../weights"), ("location", ""), ("location", "."), ("location", "model"),
        ("location", "weights/../../x"), ("location", "no such file"), ("location", "a" * 5000), ("location", "weights\0"),
        ("location", "/dev/zero"), ("location", "/dev/stdin"), ("location", "link"), ("location", "pipe"), ("location", "loop"),
        ("offset", str(_HUGE)), ("offset", "-1"), ("offset", "x"), ("offset", str(2**64)), ("length", str(_HUGE)),
        ("length", "-1"), ("length", "0"), ("length", "x"), ("length", str(2**64)),
    ):  # fmt: skip
        model = onnx.ModelProto.FromString(good["model"])
        for entry in model.graph.initializer[0].external_data:
            if entry.key == key:
                entry.value = value
        yield f"{key} {value[:20]!r}", {"model": model.SerializeToString(), "weights": good["weights"]}
