"""A grammar of malicious archives: every place where a pickle, a name or a path can hide × what can be put there."""

from __future__ import annotations

import functools
import io
import itertools
import json
import pickle
import random as randomness
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

WRITTEN = "PWNED"  # the file that an attack would write
SECRET = "SECRET"  # the file that an attack would read
MODULE = "heatcli_canary"  # the module that an attack would import; it writes that file


_ZEROS = bytes(80 << 20)


@dataclass(frozen=True)
class Attack:
    """An archive, and what it tries. `harmless`: what is hidden there is left out, so that it may load."""

    kind: str
    name: str
    content: bytes
    harmless: bool = False


@dataclass(frozen=True)
class Entry:
    """An entry of a zip archive as it is written, lies included."""

    name: str
    content: bytes
    local_name: str | None = None
    flags: int = 0
    method: int = 0
    crc: int | None = None
    size: int | None = None
    local_size: int | None = None
    offset: int | None = None


def packed(
    entries: list[Entry], prefix: bytes = b"", gap: bytes = b"", tail: bytes = b"", comment: bytes = b"", count: int = 0
) -> bytes:
    """A zip archive of these entries; the other arguments are bytes in between that belong to none."""
    body, directory = bytearray(prefix), bytearray()
    for entry in entries:
        content = _deflated(entry.content) if entry.method == 8 else entry.content
        crc = zlib.crc32(entry.content) if entry.crc is None else entry.crc
        size = len(entry.content) if entry.size is None else entry.size
        offset = len(body) if entry.offset is None else entry.offset
        local = (entry.name if entry.local_name is None else entry.local_name).encode()
        name = entry.name.encode()
        local_size = size if entry.local_size is None else entry.local_size
        body += struct.pack(
            "<4s5H3I2H", b"PK\3\4", 20, entry.flags, entry.method, 0, 0, crc, len(content), local_size, len(local), 0
        )
        body += local + content
        directory += struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", 20, 20, entry.flags, entry.method, 0, 0, crc, len(content), size, len(name), 0, 0,
            0, 0, 0, offset,
        )  # fmt: skip
        directory += name
    body += gap
    n = len(entries) + count
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, n, n, len(directory), len(body), len(comment))
    return bytes(body + directory + tail + end + comment)


@functools.cache
def _deflated(content: bytes) -> bytes:
    return zlib.compress(content, 1, wbits=-15)


class Small(nn.Module):
    """A network with a submodule, a buffer and a constant tensor."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("scale", torch.full((4, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv(x).relu() * self.scale).mean((2, 3))


EXAMPLE = torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8)


def honest() -> dict[str, bytes]:
    """The same network in both formats, as torch writes it."""
    script, program = io.BytesIO(), io.BytesIO()
    torch.jit.save(torch.jit.script(Small().eval()), script)
    torch.export.save(torch.export.export(Small().eval(), (EXAMPLE,)), program)
    return {"torchscript": script.getvalue(), "pt2": program.getvalue()}


def entries_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def zipped(entries: dict[str, bytes]) -> bytes:
    return packed([Entry(f"archive/{name}", content) for name, content in entries.items()])


class _Bomb:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def bombs() -> dict[str, bytes]:
    """Pickles that write, run or import, in every encoding that torch reads."""
    import importlib
    import os

    calls = {
        "system": _Bomb(os.system, f"touch {WRITTEN}"),
        "open": _Bomb(open, WRITTEN, "w"),
        "exec": _Bomb(exec, f"open({WRITTEN!r}, 'w').close()"),
        "import": _Bomb(importlib.import_module, MODULE),
    }
    made = {}
    for name, bomb in calls.items():
        made |= {f"{name}-{n}": pickle.dumps(bomb, n) for n in (0, 2, 4)}
        buffer = io.BytesIO()
        torch.save(bomb, buffer)
        made[f"{name}-torch"] = buffer.getvalue()
    return made


def attacks(good: dict[str, bytes]) -> Iterator[Attack]:
    """All of them, for the honest archives `good`."""
    for content, format in ((good["torchscript"], "torchscript"), (good["pt2"], "pt2")):
        yield from zips(content, format)
    yield from pickles_in_programs(entries_of(good["pt2"]))
    yield from calls_in_programs(entries_of(good["pt2"]))
    yield from names_in_programs(entries_of(good["pt2"]))
    yield from pickles_in_scripts(entries_of(good["torchscript"]))
    yield from calls_in_scripts(entries_of(good["torchscript"]))


# --- zip ---------------------------------------------------------------------------------------------------------------


def zips(content: bytes, format: str) -> Iterator[Attack]:
    """Archives that two readers would understand differently, or that lead outside."""
    inner = entries_of(content)
    plain = [Entry(f"archive/{name}", value) for name, value in inner.items()]
    main = "data.pkl" if format == "torchscript" else "models/model.json"
    where = [main, "data/0" if format == "torchscript" else "data/weights/weight_0", "byteorder"]

    def attack(name: str, *args: Any, **more: Any) -> Attack:
        return Attack(f"zip, {format}", name, packed(*args, **more))

    for target in where:
        i = next(i for i, entry in enumerate(plain) if entry.name == f"archive/{target}")
        entry = plain[i]
        others = plain[:i] + plain[i + 1 :]

        def with_(*new: Entry, others: list[Entry] = others) -> list[Entry]:
            return [*others, *new]

        evil = replace(entry, content=entry.content[:-1] + b"\0")
        yield attack(f"twice {target}", with_(entry, entry))
        yield attack(f"twice, other content {target}", with_(entry, evil))
        yield attack(f"twice, other content first {target}", with_(evil, entry))
        for changed in (str.upper, str.title, str.swapcase):
            yield attack(f"{changed.__name__} {target}", with_(entry, replace(evil, name=f"archive/{changed(target)}")))
            yield attack(
                f"{changed.__name__} folder {target}",
                with_(entry, replace(evil, name=changed("archive") + f"/{target}")),
            )
        for name in (
            f"../archive/{target}", f"/archive/{target}", f"archive/../{target}", f"archive//{target}",
            f"archive\\{target}", f"archive/./{target}", f"other/{target}", target.replace("/", "_"),
            f"archive/{target}\0", f"archive/{target}\n", f"C:/{target}", f"archive/{target}/..",
        ):  # fmt: skip
            yield attack(f"named {name!r}", with_(entry, replace(evil, name=name)))
        yield attack(f"local name {target}", with_(replace(entry, local_name="archive/byteorder_")))
        yield attack(f"local case {target}", with_(replace(entry, local_name=entry.name.upper())))
        yield attack(f"encrypted {target}", with_(replace(entry, flags=1)))
        for method in (1, 9, 12, 14, 93, 99):
            yield attack(f"method {method} {target}", with_(replace(entry, method=method)))
        yield attack(f"checksum {target}", with_(replace(entry, crc=1)))
        yield attack(f"size {target}", with_(replace(entry, size=len(entry.content) + 1)))
        yield attack(f"local size {target}", with_(replace(entry, local_size=len(entry.content) + 1)))
        yield attack(f"inflates to more {target}", with_(replace(entry, method=8, size=max(len(entry.content) - 1, 0))))
        yield attack(f"bomb {target}", with_(replace(entry, content=_ZEROS, method=8)))
        yield attack(f"overlaps {target}", with_(replace(entry, offset=0)))
        yield attack(f"outside {target}", with_(replace(entry, offset=1 << 30)))
        yield attack(f"64-bit size that is nowhere {target}", with_(replace(entry, size=0xFFFFFFFF)))
    yield attack("prefix", plain, prefix=b"#!/bin/sh\n")
    yield attack("gap", plain, gap=b"PK\1\2hidden")
    yield attack("tail", plain, tail=b"hidden")
    yield attack("comment", plain, comment=b"comment")
    yield attack("two archives", plain, comment=content)
    yield attack("more entries than there are", plain, count=1)
    yield attack("fewer entries than there are", plain, count=-1)
    yield attack("nothing", [])
    yield Attack(f"zip, {format}", "appended", content + content)
    yield Attack(f"zip, {format}", "byte after its end", content + b"\0")
    yield Attack(f"zip, {format}", "end without archive", content[-22:])


# --- torch.export ------------------------------------------------------------------------------------------------------


def pickles_in_programs(good: dict[str, bytes]) -> Iterator[Attack]:
    """Pickles in every entry that torch.export would unpickle, whatever tells it to."""
    weights = "data/weights/model_weights_config.json"
    constants = "data/constants/model_constants_config.json"
    meta = json.loads(good[weights])["config"]["conv.bias"]["tensor_meta"]

    def flagged(place: str, flag: Any, path: str, key: str = "use_pickle") -> dict[str, bytes]:
        config = json.loads(good[place])
        entry = {"path_name": path, "is_param": False, "use_pickle": False, "tensor_meta": meta}
        config["config"]["conv.bias" if place == weights else "extra"] = {**entry, key: flag}
        return {**good, place: json.dumps(config).encode()}

    for name, bomb in bombs().items():
        for flag in (True, 1, 2, "yes", [0], {"a": 1}, 0.5):
            yield Attack(
                "pickle, pt2",
                f"weight {flag!r} {name}",
                zipped({**flagged(weights, flag, "weight_9"), "data/weights/weight_9": bomb}),
            )
            yield Attack(
                "pickle, pt2",
                f"constant {flag!r} {name}",
                zipped({**flagged(constants, flag, "tensor_9"), "data/constants/tensor_9": bomb}),
            )
        for path in ("opaque_obj_0", "custom_obj_0", "../weights/opaque_obj_0", "tensor_0/../opaque_obj_0"):
            yield Attack(
                "pickle, pt2",
                f"constant {path} {name}",
                zipped({**flagged(constants, False, path), f"data/constants/{path.rpartition('/')[2]}": bomb}),
            )
        yield Attack(
            "pickle, pt2", f"sample inputs {name}", zipped({**good, "data/sample_inputs/model.pt": bomb}), True
        )
        for place in (
            "data/weights/model.pt", "data/constants/model.pt", "data/constants/opaque_obj_1", "models/model.pkl",
            "data/aotinductor/model/model.so", "data/aotinductor/model/weights_config.json", "data/executorch/model.pte",
            "data.pkl", "serialized_constants.pt", "data/constants/custom_obj_3",
        ):  # fmt: skip
            yield Attack(
                "pickle, pt2", f"{place} {name}", zipped({**good, place: bomb}), place == "data/weights/model.pt"
            )
        yield Attack("pickle, pt2", f"program {name}", zipped({**good, "models/model.json": bomb}))
        yield Attack("pickle, pt2", f"config {name}", zipped({**good, weights: bomb}))
    twice = [Entry(f"archive/{n}", c) for n, c in good.items()]
    for bad in (flagged(weights, True, "weight_0"), flagged(weights, 2, "weight_0")):
        for case in (weights, weights.upper(), weights.replace("model_", "Model_")):
            yield Attack(
                "pickle, pt2", f"second table {case}", packed([*twice, Entry(f"archive/{case}", bad[weights])])
            )


TARGETS = (
    "os.system", "builtins.exec", "torch.hub.load", "torch.load", "torch.save", "torch.jit.load", "torch.package.load",
    "torch.ops.load_library", "torch.ops.aten.from_file.default", "torch.ops.aten.save.default",
    "torch.ops.aten._print.default", "torch.ops.image.read_file.default", "torch.ops.image.write_file.default",
    "torch.ops.prim.Print.default", "torch.ops.aten.set_.source_Storage", "torch.ops.aten._reshape_alias.default",
    "torch.ops.inductor._reinterpret_tensor.default", "torch.ops.c10d.send.default", "torch.ops.aten.backward.default",
    "torch.ops.higher_order.triton_kernel_wrapper_functional", "torch.ops.higher_order.call_torchbind",
    "torch.ops.higher_order.print", "torch.ops.higher_order.run_with_rng_state", "_operator.attrgetter",
    "_operator.methodcaller", "_operator.call", "_operator.setitem", "math.__loader__.load_module", "#canary:x",
    "torch.ops.aten.relu.default.__init__", "torch.ops.aten.relu.default; import heatcli_canary",
)  # fmt: skip


def _program(good: dict[str, bytes], change: Callable[[dict[str, Any]], object]) -> bytes:
    program = json.loads(good["models/model.json"])
    change(program)
    return zipped({**good, "models/model.json": json.dumps(program).encode()})


def _argument(name: str, **value: Any) -> dict[str, Any]:
    return {"name": name, "arg": value, "kind": 1}


def _new_value(program: dict[str, Any], name: str) -> dict[str, Any]:
    graph = program["graph_module"]["graph"]
    graph["tensor_values"][name] = dict(graph["tensor_values"]["relu"])
    return {
        "target": "", "inputs": [], "outputs": [{"as_tensor": {"name": name}}], "metadata": {},
        "is_hop_single_tensor_return": None, "name": name,
    }  # fmt: skip


def calls_in_programs(good: dict[str, bytes]) -> Iterator[Attack]:
    """Calls of what is no operator that computes tensors, in every place that may name one."""
    for target in TARGETS:

        def first(program: dict[str, Any], target: str = target) -> None:
            node = _new_value(program, "evil") | {
                "target": target,
                "inputs": [
                    _argument("filename", as_string=WRITTEN),
                    _argument("shared", as_bool=True),
                    _argument("size", as_int=4),
                ],
            }
            program["graph_module"]["graph"]["nodes"].insert(0, node)

        def instead(program: dict[str, Any], target: str = target) -> None:
            program["graph_module"]["graph"]["nodes"][1]["target"] = target

        def inside(program: dict[str, Any], target: str = target) -> None:
            graph = program["graph_module"]["graph"]
            inner = json.loads(json.dumps(graph))
            inner["nodes"][1]["target"] = target
            node = _new_value(program, "evil") | {"target": "torch.ops.higher_order.cond"}
            node["inputs"] = [_argument("", as_graph={"name": "inner", "graph": inner})]
            graph["nodes"].insert(0, node)

        def operator(program: dict[str, Any], target: str = target) -> None:
            node = program["graph_module"]["graph"]["nodes"][1]
            node["inputs"].append(_argument("function", as_operator=target))

        for change in (first, instead, inside, operator):
            yield Attack("call, pt2", f"{change.__name__} {target}", _program(good, change))


EVIL_NAMES = (
    f"x); __import__('os').mkdir('{WRITTEN}') #", f"x\n    import {MODULE}\n", f"a\"), __import__('{MODULE}') #",
    f"__import__('{MODULE}')", "lambda", "x y", "x;y", "x, *y",
)  # fmt: skip


def names_in_programs(good: dict[str, bytes]) -> Iterator[Attack]:
    """Source code, modules and objects in names, expressions and tree specifications."""
    whole = good["models/model.json"].decode()
    for name in EVIL_NAMES:
        quoted = json.dumps(name)[1:-1]
        for old in ("relu", "x", "p_conv_weight", "conv.weight", "scale"):
            changed = whole.replace(f'"{old}"', f'"{quoted}"').encode()
            config = good["data/weights/model_weights_config.json"].decode().replace(f'"{old}"', f'"{quoted}"').encode()
            both = {**good, "models/model.json": changed, "data/weights/model_weights_config.json": config}
            if name.isidentifier() or (old in ("conv.weight", "scale") and name == "x y"):
                continue
            yield Attack("name, pt2", f"{old} → {name!r}", zipped(both))

        def edits(program: dict[str, Any], name: str = name) -> dict[str, Callable[[], object]]:
            module = program["graph_module"]
            graph, signature = module["graph"], module["module_call_graph"][0]["signature"]
            size = {"as_expr": {"expr_str": name, "hint": None}}

            def spec(kind: Any, context: Any) -> str:
                return json.dumps([1, {"type": kind, "context": context, "children_spec": []}])

            node = graph["nodes"][1]
            return {
                "argument": lambda: signature.update(forward_arg_names=[name]),
                "guard": lambda: program.update(guards_code=[name]),
                "guard after another": lambda: program.update(guards_code=["L['x'].size()[0] == 1", f"{name} == 1"]),
                "range": lambda: program.update(range_constraints={name: {"min_val": 0, "max_val": 2}}),
                "range's end": lambda: program.update(range_constraints={"s0": {"min_val": name, "max_val": 2}}),
                "size": lambda: graph["tensor_values"]["x"]["sizes"].insert(0, size),
                "size number": lambda: graph["sym_int_values"].update(s0={"as_int": name}),
                "size value": lambda: graph["sym_int_values"].update(s0=size),
                "device": lambda: graph["tensor_values"]["x"]["device"].update(type=name),
                "input's type": lambda: signature.update(in_spec=spec(name, "null")),
                "output's type": lambda: signature.update(out_spec=spec(name, "null")),
                "input's keys": lambda: signature.update(in_spec=spec("builtins.dict", json.dumps([name]))),
                "input's context": lambda: signature.update(in_spec=spec("builtins.dict", name)),
                "object": lambda: graph["custom_obj_values"].update(a={"name": "a", "class_fqn": name}),
                "node's name": lambda: node.update(name=name),
                "number": lambda: node["inputs"].append(_argument("x", as_int=name)),
                "numbers": lambda: node["inputs"].append(_argument("x", as_ints=[1, [name]])),
                "flag": lambda: node["inputs"].append(_argument("x", as_bool=name)),
                "text": lambda: node["inputs"].append(_argument("x", as_memory_format=name)),
                "subgraph": lambda: node["inputs"].append(_argument("x", as_graph={"name": name, "graph": graph})),
            }

        for place in edits(json.loads(whole)):
            if name.isidentifier() and place in ("size", "size value", "range", "guard", "input's keys", "device"):
                continue
            if name == "x y" and place == "input's keys":
                continue

            def edit(program: dict[str, Any], place: str = place) -> None:
                edits(program)[place]()

            try:
                yield Attack("name, pt2", f"{place} {name!r}", _program(good, edit))
            except ValueError:  # a graph within itself
                continue
    specs = (
        ("collections.namedtuple", json.dumps(f"{MODULE}.Point")), (f"{MODULE}.Point", "null"),
        ("collections.defaultdict", json.dumps({"default_factory_module": MODULE, "default_factory_name": "x", "dict_context": []})),
        ("collections.deque", "1"), ("torch.Size", "null"), ("torch.return_types.max", "null"),
        ("builtins.dict", json.dumps([{"__enum__": True, "fqn": f"{MODULE}:Colour", "name": "RED"}])),
        ("builtins.dict", json.dumps([[MODULE]])), ("builtins.slice", "null"), ("builtins.dict", "[" * 9999),
    )  # fmt: skip
    for place, (kind, context) in itertools.product(("in_spec", "out_spec"), specs):

        def specified(program: dict[str, Any], place: str = place, kind: str = kind, context: str = context) -> None:
            signature = program["graph_module"]["module_call_graph"][0]["signature"]
            signature[place] = json.dumps([1, {"type": kind, "context": context, "children_spec": []}])

        yield Attack("name, pt2", f"{place} {kind} {context[:40]}", _program(good, specified))
    for expression in (
        "Pow(Integer(9), Pow(Integer(9), Integer(99)))", "9**9**9", "Pow(Pow(Integer(9), Integer(9)), Integer(9))", "1<<999999",
        "(lambda: 1)()", "[x for x in ()]", "Symbol.__class__", "Symbol('a').func", "Integer(1) if 1 else 2", "f'{1}'",
        "Symbol('__import__(1)')", "eval('1')", "-" * 5000 + "1", "(" * 300 + "1" + ")" * 300, f"open('{WRITTEN}', 'w')",
    ):  # fmt: skip

        def sized(program: dict[str, Any], expression: str = expression) -> None:
            values = program["graph_module"]["graph"]["tensor_values"]
            values["x"]["sizes"][0] = {"as_expr": {"expr_str": expression, "hint": {"as_int": 1}}}

        yield Attack("name, pt2", f"size {expression[:40]}", _program(good, sized))
    for text in ("[" * 100_000, '{"a":' * 100_000, "NaN", "[]", "null", '{"graph_module": 1}', "{", "\u2028"):
        yield Attack("name, pt2", f"program {text[:20]}", zipped({**good, "models/model.json": text.encode()}))
    for key, value in (
        ("source_fn_stack", f"a,torch.{MODULE}.x"), ("from_node", f'[{{"name": "{MODULE}"}}]'), ("custom", '{"a": 1}'),
        ("nn_module_stack", f"a,b,{MODULE}.X"), ("torch_fn", MODULE), ("stack_trace", MODULE),
    ):  # fmt: skip

        def told(program: dict[str, Any], key: str = key, value: str = value) -> None:
            program["graph_module"]["graph"]["nodes"][0]["metadata"][key] = value

        yield Attack("name, pt2", f"metadata {key}", _program(good, told), True)


# --- TorchScript -------------------------------------------------------------------------------------------------------

_X = b"X\x01\x00\x00\x00x"
OPCODES = {
    "os.system": b"\x80\x02cos\nsystem\n" + b"(X\x0b\x00\x00\x00touch PWNEDtR.",
    "instance": b"\x80\x02(S'touch PWNED'\nios\nsystem\n.",
    "object": b"\x80\x02(cos\nsystem\nS'touch PWNED'\no.",
    "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0btouch PWNED\x85R.",
    "extension": b"\x80\x02\x82\x01.",
    "string": b"\x80\x02S'x'\n.",
    "memo far away": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "memo unknown": b"\x80\x02j\xff\xff\xff\x7f.",
    "empty stack": b"\x80\x02.",
    "reduce of nothing": b"\x80\x02R.",
    "build of nothing": b"\x80\x02Nb.",
    "call of a number": b"\x80\x02K\x07)R.",
    "call of a text": b"\x80\x02" + _X + b")R.",
    "append to nothing": b"\x80\x02N(Ne.",
    "odd items": b"\x80\x02}(Nu.",
    "no mark": b"\x80\x02t.",
    "below the mark": b"\x80\x02N(\x85.",
    "nested": b"\x80\x02)" + b"\x85" * 100_000 + b".",
    "nested lists": b"\x80\x02" + b"](" * 50_000 + b"e" * 50_000 + b".",
    "itself": b"\x80\x02]q\x00(h\x00e.",
    "laughs": b"\x80\x02)q\x00" + b"".join(b"(" + struct.pack("<BB", 0x68, i) * 9 + b"tq" + bytes([i + 1]) for i in range(60)) + b".",
    "class": b"\x80\x02c__torch__.torch.classes.dist_rpc\nWorkerInfo\n)\x81}b.",
    "torch's own": b"\x80\x02ctorch.serialization\nload\n" + _X + b"\x85R.",
    "tagged": b"\x80\x02ctorch.jit._pickle\nrestore_type_tag\n]X\x28\x00\x00\x00List[__torch__.torch.classes.dist_rpc.W]\x86R.",
    "cut": b"\x80\x02c__torch__\nX",
    "long text": b"\x80\x02X\xff\xff\xff\x7fx.",
    "two": b"\x80\x02N.\x80\x02N.",
    "nothing": b"",
}  # fmt: skip


def pickles_in_scripts(good: dict[str, bytes]) -> Iterator[Attack]:
    """Pickles of Python's in the place of TorchScript's, operations that break its reader, tensors outside memory."""
    for place in ("data.pkl", "constants.pkl"):
        for name, content in (OPCODES | bombs()).items():
            yield Attack("pickle, torchscript", f"{place} {name}", zipped({**good, place: content}))
    for name, content in bombs().items():
        for place in (
            "data/evil",
            "evil.pkl",
            "code/evil.pkl",
            "data/0.pkl",
            "tensors/0",
            "attributes.pkl",
            "model.json",
        ):
            yield Attack("pickle, torchscript", f"{place} {name}", zipped({**good, place: content}))
        for place in ("extra/evil.pkl", "bytecode.pkl", "traced_inputs.pkl", "code/__torch__.py.debug_pkl"):
            yield Attack("pickle, torchscript", f"{place} {name}", zipped({**good, place: content}), True)
    data = good["data.pkl"]
    shape = data.index(b"K\x04K\x03K\x03K\x03")  # of the convolution's weight
    for size in (b"K\x05K\x03K\x03K\x03", b"K\xffK\xffK\xffK\xff"):
        yield Attack(
            "pickle, torchscript",
            f"tensor of {size!r}",
            zipped({**good, "data.pkl": data.replace(data[shape : shape + 8], size)}),
        )
    yield Attack(
        "pickle, torchscript",
        "stride",
        zipped({**good, "data.pkl": data.replace(b"K\x1bK\tK\x03K\x01", b"K\xffK\tK\x03K\x01")}),
    )
    yield Attack(
        "pickle, torchscript", "type", zipped({**good, "data.pkl": data.replace(b"FloatStorage", b"DoubleStorage")})
    )
    for i in (0, 1, 2):
        yield Attack(
            "pickle, torchscript",
            f"storage {i} is missing",
            zipped({n: c for n, c in good.items() if n != f"data/{i}"}),
        )
        yield Attack(
            "pickle, torchscript", f"storage {i} is short", zipped({**good, f"data/{i}": good[f"data/{i}"][:-4]})
        )
        yield Attack("pickle, torchscript", f"storage {i} is empty", zipped({**good, f"data/{i}": b""}))


STATEMENTS = (
    f'torch.save(x, "{WRITTEN}")', f'(x).save("{WRITTEN}")', '_s = torch.save', '_s = getattr(x, "save")',
    f'getattr(x, "sa\\166e")("{WRITTEN}")', f'getattr(x, "sa" "ve")("{WRITTEN}")', f"getattr(x, 'save')('{WRITTEN}')",
    f'_t = torch\n    _t.save(x, "{WRITTEN}")', f'torch . save(x, "{WRITTEN}")', f'torch.autograd.save(x, "{WRITTEN}")',
    f'ops.aten.save(x, "{WRITTEN}")', f'_o = ops\n    _o.aten.save(x, "{WRITTEN}")', f'_o = ops.aten\n    _o.save(x, "{WRITTEN}")',
    f'_w = torch.from_file("{WRITTEN}", True, 4)', f'_w = torch.from_file("{SECRET}", False, 1)', f'_w = x.from_file("{SECRET}", False, 1)',
    f'ops.image.write_file("{WRITTEN}", x)', f'_w = ops.image.read_file("{SECRET}")', "print(x)", "_p = print", "ops.prim.Print(x)",
    "_f = fork(self.forward, x)", "_f = awaitable(self.forward, x)", "ops.prim.rpc_async(x)", "ops.profiler._record_function_enter(\"a\")",
    "ops.cuda.synchronize()", "ops.c10d.barrier()", "ops.inductor._reinterpret_tensor(x, [9], [1], 99999)", "ops.mkldnn.data_ptr(x)",
    "ops.static_runtime.create_owned_ref(x)", "ops.prim.PythonOp(x)", "ops.prim.IgnoredPythonOp(x)", "_r = torch._reshape_alias(x, [99999], [1])",
    "torch._foobar(x)", "torch._test_check_tensor(x)", "torch.set_(x)", "torch.set_data(x, x)", "(x).backward()", "torch.manual_seed(1)",
    "(x).retain_grad()", "_h = torch.no_such_operator(x)", "torch.sparse_coo_tensor_unsafe(x)",
    "_s = torch._sparse_coo_tensor_unsafe(x, x, [1])", "_c = __torch__.torch.classes.dist_rpc.WorkerInfo", "_c = torch.classes.x",
    f"import {MODULE}", f"from {MODULE} import x", f'exec("import {MODULE}")\n    torch.save(x, "{WRITTEN}")', "x # a comment\n",
    'x = """a"""', 'x = r"a"', 'x = f"{x}"', "x = (lambda: x)()", "x = x + x", "x = not not x", "x = - - 1", "del x", "global x", "raise x",
    "x = \\\n    y", "x\t= y", "x\r= y", "x = é", "x = y; torch.save(x)", "x = `x`", "x = $x", "x = " + "(" * 100 + "x" + ")" * 100,
    "x = " + "[" * 100_000 + "]" * 100_000, "\n".join("  " * (i + 2) + "if True:" for i in range(100)).lstrip() + "\n" + "  " * 103 + "pass",
    f'_n = __torch__.{__name__}.Small.value.save("{WRITTEN}")', "_n = __torch__.nowhere.X()", f'(x)\n    .save("{WRITTEN}")', "x = {}.save(1)", "x = [x].save(1)",
    'x = "".save(1)', "self.torch.save(x)", f'torch.jit.save(x, "{WRITTEN}")', f'ops.torchvision.read_video("{SECRET}")',
)  # fmt: skip


def calls_in_scripts(good: dict[str, bytes]) -> Iterator[Attack]:
    """Calls of what is no operator that computes tensors, in every function and method, and loops while loading."""
    main = next(name for name in good if b"class Small(" in good[name] and name.endswith(".py"))
    code = good[main].decode()
    own = re.search(r"self: ([\w.]+)", code)[1]  # type: ignore[index]
    start = code.index(") -> Tensor:\n") + len(") -> Tensor:\n")
    conv = next(name for name in good if b"class Conv2d(" in good[name] and name.endswith(".py"))
    for statement in STATEMENTS:
        body = f"    {statement}\n"
        places = {
            "forward": {main: code[:start] + body + code[start:]},
            "another method": {
                main: f"{code}  def other(self: {own},\n    x: Tensor) -> Tensor:\n{body}    return x\n"
            },
            "a function": {main: f"{code}def other(x: Tensor) -> Tensor:\n{body}    return x\n"},
            "__setstate__": {
                main: f"{code}  def __setstate__(self: {own},\n    x: Tensor) -> NoneType:\n{body}    return None\n"
            },
            "another file": {conv: f"{good[conv].decode()}def other(x: Tensor) -> Tensor:\n{body}    return x\n"},
        }
        for place, changed in places.items():
            made = {name: text.encode() for name, text in changed.items()}
            yield Attack("call, torchscript", f"{place}: {statement[:60]}", zipped({**good, **made}))
    head = f"  def __setstate__(self: {own},\n    x: Tensor) -> NoneType:\n"
    for loop in (
        "    while True:\n      pass\n", "    for i in range(999999999999):\n      pass\n", "    (self).__setstate__(x, )\n",
        "    (self).forward(x, )\n    (self).__setstate__(x, )\n",
    ):  # fmt: skip
        yield Attack(
            "loop while loading", loop.strip(), zipped({**good, main: f"{code}{head}{loop}    return None\n".encode()})
        )
    doubling = "".join(
        f"  def f{i}(self: {own}) -> NoneType:\n{f'    (self).f{i + 1}()' * 0}"
        + f"    (self).f{i + 1}()\n" * 2
        + "    return None\n"
        for i in range(40)
    )
    last = f"  def f40(self: {own}) -> NoneType:\n    return None\n"
    again = f"{code}{head}    (self).f0()\n    return None\n{doubling}{last}"
    chain = "".join(
        f"class C{i}(Module):\n  __parameters__ = []\n  __buffers__ = []\n  a : {own.rpartition('.')[0]}.C{i + 1}\n"
        for i in range(300)
    )
    classes = code.replace("  training : bool\n", f"  training : bool\n  c : {own.rpartition('.')[0]}.C0\n", 1) + chain
    yield Attack("loop while loading", "classes in classes", zipped({**good, main: classes.encode()}))
    yield Attack("loop while loading", "calls that double", zipped({**good, main: again.encode()}))


def damaged(content: bytes, random: randomness.Random) -> bytes:
    """A copy with a bit flipped, a byte changed, a part cut out, doubled or zeroed, or cut short."""
    at, size = random.randrange(len(content)), random.randrange(1, 64)
    return random.choice(
        (
            lambda: content[:at] + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1 :],
            lambda: content[:at] + random.randbytes(1) + content[at + 1 :],
            lambda: content[:at] + content[at + size :],
            lambda: content[:at] + content[at : at + size] + content[at:],
            lambda: content[:at] + bytes(len(content[at : at + size])) + content[at + size :],
            lambda: content[:at],
        )
    )()


def in_folder(folder: Path) -> None:
    """Lay out what attacks would find: the module, and the file that is not theirs to read."""
    (folder / f"{MODULE}.py").write_text(f"open({WRITTEN!r}, 'w').close()\n")
    (folder / SECRET).write_bytes(b"secret")
