"""torch.export archives (.pt2), checked before they are loaded."""

from __future__ import annotations

import ast
import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heatcli.artifact.artifact import Artifact, InputInfo
from heatcli.artifact.sidecar import EMBEDDED
from heatcli.artifact.verification import of_module
from heatcli.errors import ModelError, first_line

_TARGETS = re.compile(
    r"(torch\.ops\.(aten|prims|higher_order|prim)\.|_operator\.|operator\.|math\.|torch\.sym_)[\w.]+$"
)
_PLAIN_CONSTANTS = ("data/constants/tensor_", "data/constants/model_constants_config.json", "data/constants/model.pt")
_FUNCTIONS = frozenset(
    """Symbol Integer Float Rational Add Mul Pow Max Min Mod Abs And Or Not Eq Ne Lt Le Gt Ge Equality Unequality
    StrictLessThan LessThan StrictGreaterThan GreaterThan floor ceiling sqrt FloorDiv CeilDiv CleanDiv ModularIndexing
    PythonMod Where PowByNatural FloatPow FloatTrueDiv IntTrueDiv TruncToInt TruncToFloat RoundToInt FloorToInt
    CeilToInt ToFloat Identity""".split()
)


def load_pt2(path: Path) -> Artifact:
    """A torch.export archive. What in it would be unpickled or executed is refused before torch sees it."""
    _refuse_unsafe(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.load(str(path))
            module = program.module()
        except Exception as error:
            raise ModelError(f"{path}: torch.export cannot load it: {first_line(error)}") from error
    user_inputs = set(program.graph_signature.user_inputs)
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in user_inputs]
    inputs = tuple(
        InputInfo(n.name, tuple(d if isinstance(d, int) else None for d in n.meta["val"].shape), n.meta["val"].dtype)
        for n in placeholders
        if isinstance(n.meta.get("val"), Tensor)
    )
    return Artifact(
        lambda _: module, inputs, _archive_text(path), runtime=lambda values: of_module(module, values),
        against=f"torch.export of torch {torch.__version__}",
    )  # fmt: skip


def _refuse_unsafe(path: Path) -> None:
    """Refuse pickled payloads, compiled libraries and calls outside the operator libraries in a .pt2 archive."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            inner = name.partition("/")[2]
            if not inner or inner.startswith("serialized_"):
                raise ModelError(
                    f"{path}: holds parts of the old torch.export format ({name}), which are pickles; save anew"
                )
            if "aotinductor" in inner:
                raise ModelError(
                    f"{path}: holds compiled code (AOTInductor), which heatcli does not run; "
                    "save it with torch.export.save"
                )
            if inner.endswith("_config.json") and _find(json.loads(archive.read(name)), "use_pickle", True):
                raise ModelError(f"{path}: holds pickled tensors; heatcli never unpickles")
            if inner.startswith("data/constants/") and not inner.startswith(_PLAIN_CONSTANTS):
                raise ModelError(f"{path}: holds pickled objects ({inner}); heatcli never unpickles")
            if inner.endswith(".pt"):
                try:
                    torch.load(io.BytesIO(archive.read(name)), weights_only=True)
                except Exception as error:
                    raise ModelError(f"{path}: holds pickled objects ({inner}); heatcli never unpickles") from error
            if inner.startswith("models/") and inner.endswith(".json"):
                program = json.loads(archive.read(name))
                for target in _all(program, "target"):
                    if not _TARGETS.match(target):
                        raise ModelError(f"{path}: calls {target!r}, which is no tensor operator; refused")
                for expression in _all(program, "expr_str"):
                    if not _is_arithmetic(expression):
                        raise ModelError(f"{path}: holds a shape expression that is none: {expression[:60]!r}; refused")


def _is_arithmetic(expression: str) -> bool:
    """Whether a size expression holds nothing but numbers, symbols and known functions (torch evaluates it)."""
    try:
        nodes = list(ast.walk(ast.parse(expression, mode="eval")))
    except (SyntaxError, ValueError):
        return False
    allowed = (ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.BinOp, ast.UnaryOp,
               ast.Compare, ast.operator, ast.unaryop, ast.cmpop)  # fmt: skip
    return all(
        isinstance(node, allowed)
        and (not isinstance(node, ast.Call) or (isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS))
        and (not isinstance(node, ast.Constant) or not isinstance(node.value, str) or node.value.isidentifier())
        for node in nodes
    )


def _items(tree: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield key, value
            yield from _items(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _items(value)


def _find(tree: Any, key: str, value: Any) -> bool:
    return any(k == key and v == value for k, v in _items(tree))


def _all(tree: Any, key: str) -> Iterable[str]:
    return (v for k, v in _items(tree) if k == key and isinstance(v, str))


def _archive_text(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.partition("/")[2] == f"extra/{EMBEDDED}":
                return archive.read(name).decode()
    return ""
