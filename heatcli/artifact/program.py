"""Checks a torch.export archive, and rewrites it, before torch reads any of it.

torch writes names of such a program into Python source and runs it, evaluates its size expressions, imports what its
tree specifications name, and unpickles tensors marked so. So all of these must be in closed lists here, and parts that
a run does not need (sample inputs, stack traces of the source) are left out.
"""

from __future__ import annotations

import ast
import json
import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any

from heatcli.artifact.archive import Buffer, Refused
from heatcli.graph.permitted import permitted

_AS_IS = ("archive_format", "archive_version", "byteorder", ".data/version")
_MODEL = "models/model.json"
_CONFIGS = {"weights": "weight", "constants": "tensor"}  # folder of tensors → prefix of their entries' names
_DROPPED = re.compile(r"extra/.*|data/sample_inputs/.*|\.data/serialization_id|models/.*\.json")
_KEPT = re.compile(r"data/(weights|constants)/[\w.]+")
_PYTHON = {
    "_operator": "add sub mul truediv floordiv mod neg pos pow eq ne lt le gt ge and_ or_ not_ getitem lshift rshift",
    "math": "ceil floor trunc sqrt",
    "torch": "sym_float sym_int sym_not sym_ite sym_max sym_min sym_sum _sym_sqrt",
    "torch.ops.higher_order": "cond while_loop wrap_with_set_grad_enabled wrap_with_autocast map_impl scan "
    "invoke_subgraph strict_mode",
}
_CALLABLE = {f"{module}.{name}" for module, names in _PYTHON.items() for name in names.split()}
_OPERATOR = re.compile(r"torch\.ops\.(aten|prims|torchvision|quantized|quantized_decomposed)\.(\w+)(\.\w+)?", re.ASCII)
_FUNCTIONS = frozenset(
    """Symbol Integer Float Rational Add Mul Pow Max Min Mod Abs And Or Not Eq Ne Lt Le Gt Ge Equality Unequality
    StrictLessThan LessThan StrictGreaterThan GreaterThan floor ceiling sqrt FloorDiv CeilDiv CleanDiv ModularIndexing
    PythonMod Where PowByNatural FloatPow FloatTrueDiv IntTrueDiv TruncToInt TruncToFloat RoundToInt FloorToInt
    CeilToInt ToFloat Identity""".split()
)
_POWERS = ("Pow", "PowByNatural", "FloatPow")
_FLAGS = frozenset("positive integer nonnegative real finite negative nonpositive zero evaluate".split())
_PATH = re.compile(r"[\w./:+ -]+", re.ASCII)  # a parameter's path; torch writes it in quotes into source code
_TREES = ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
_TARGETED = ("parameter_name", "buffer_name", "tensor_constant_name", "user_input_name")


def checked(entries: Mapping[str, Buffer]) -> dict[str, Buffer]:
    """The entries that torch may read, some of them rewritten. Raises `Refused`."""
    for name in entries:
        if "aotinductor" in name:
            raise Refused(
                "holds compiled code (AOTInductor), which heatcli does not run; save it with torch.export.save"
            )
        folder, _, file = name.rpartition("/")
        if folder == "data/constants" and not file.startswith(("tensor_", "model_constants_config")):
            raise Refused(f"holds pickled objects ({name}); heatcli never unpickles")
        if name not in _AS_IS and not _KEPT.fullmatch(name) and not _DROPPED.fullmatch(name):
            raise Refused(f"holds {name}, which is no part of a torch.export archive; refused")
    kept: dict[str, Buffer] = {name: content for name, content in entries.items() if name in _AS_IS}
    kept[_MODEL] = _as_json(_program(_parsed(entries, _MODEL)))
    kept["data/sample_inputs/model.pt"] = b""
    for folder, start in _CONFIGS.items():
        place = f"data/{folder}"
        config = _config(_parsed(entries, f"{place}/model_{folder}_config.json"), place, start, entries)
        kept[f"{place}/model_{folder}_config.json"] = _as_json(config)
        for payload in config["config"].values():
            kept[f"{place}/{payload['path_name']}"] = entries[f"{place}/{payload['path_name']}"]
    return kept


def _parsed(entries: Mapping[str, Buffer], name: str) -> Any:
    """The JSON of an entry. Raises `Refused` if it is missing or not valid."""
    if name not in entries:
        raise Refused(f"holds no {name}; export it anew")
    try:
        return json.loads(bytes(entries[name]))
    except (ValueError, RecursionError) as error:
        raise Refused(f"holds {name}, which is no valid JSON; export it anew") from error


def _as_json(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def _config(config: Any, place: str, start: str, entries: Mapping[str, Buffer]) -> dict[str, Any]:
    """The table of tensors in a folder. Each is plain memory in an entry of that folder."""
    tensors: dict[str, Any] = {}
    for name, payload in _mapping(_mapping(config, "config")["config"]).items():
        _check_text(name, _PATH)
        entry = _mapping(payload, "path_name", "is_param", "use_pickle", "tensor_meta")
        if entry["use_pickle"] is not False:
            raise Refused(f"holds pickled tensors ({name}); heatcli never unpickles")
        path, meta = entry["path_name"], _mapping(entry["tensor_meta"], "sizes", "strides", "storage_offset", "dtype")
        if not isinstance(path, str) or not re.fullmatch(rf"{start}_\d+", path, re.ASCII):
            raise Refused(f"holds pickled objects ({name}: {path!r}); heatcli never unpickles")
        content = entries.get(f"{place}/{path}")
        shape = [_size(n) for n in _list(meta["sizes"])]
        if content is None or (len(content) == 0 and 0 not in shape):
            raise Refused(f"holds no values of {name} ({place}/{path}); export it anew")
        for n in (*_list(meta["strides"]), meta["storage_offset"]):
            _size(n)
        _walk(meta)
        tensors[name] = {
            "path_name": path,
            "is_param": entry["is_param"] is True,
            "use_pickle": False,
            "tensor_meta": meta,
        }
    return {"config": tensors}


def _size(value: Any) -> int:
    """The number in `{"as_int": 3}`."""
    number = _mapping(value, "as_int")["as_int"]
    if type(number) is not int or not 0 <= number < 1 << 48:
        raise Refused(f"holds a tensor of size {number!r}; refused")
    return number


def _program(program: Any) -> dict[str, Any]:
    """A program whose executed and evaluated parts are checked, without purely descriptive parts."""
    whole = dict(_mapping(program, "graph_module"))
    module = dict(_mapping(whole["graph_module"], "graph", "signature", "module_call_graph"))
    _walk(module["graph"])
    _walk(module["signature"])
    module["metadata"], module["treespec_namedtuple_fields"] = {}, {}
    entry = next((e for e in _list(module["module_call_graph"]) if _mapping(e).get("fqn") == ""), None)
    if entry is None:
        raise Refused("holds no signature of its inputs; export it anew")
    module["module_call_graph"] = [{"fqn": "", "signature": _signature(_mapping(entry, "signature")["signature"])}]
    whole["graph_module"] = module
    whole["verifiers"] = [v for v in _list(whole.get("verifiers", [])) if v in ("", "ATEN", "TRAINING")]
    whole["guards_code"] = [_guard(code) for code in _list(whole.get("guards_code", []))]
    for symbol in _mapping(whole.get("range_constraints", {})):
        if not isinstance(symbol, str) or not _is_arithmetic(symbol):
            raise Refused(f"holds {str(symbol)[:60]!r} where a size expression belongs; refused")
    _walk(whole["range_constraints"], keys=False)
    return whole


def _signature(signature: Any) -> dict[str, Any]:
    """The nesting of inputs and outputs: dictionaries, lists and tuples."""
    specs = dict(_mapping(signature, "in_spec", "out_spec"))
    for name in ("in_spec", "out_spec"):
        try:
            protocol, tree = json.loads(specs[name])
        except (ValueError, TypeError, RecursionError) as error:
            raise Refused("holds inputs or outputs of no known kind; refused") from error
        if protocol != 1:
            raise Refused("holds inputs or outputs of no known kind; refused")
        specs[name] = json.dumps([1, _tree(tree)])
    for part in ("inputs", "outputs"):
        _walk(specs.get(part, []))
    for name in specs.get("forward_arg_names") or []:
        _identifier(name)
    return specs


def _tree(tree: Any) -> dict[str, Any]:
    """A nesting of tuples, lists and dictionaries, rewritten with nothing else in it. Raises `Refused`."""
    spec = _mapping(tree, "type", "context", "children_spec")
    kind, context = spec["type"], spec["context"]
    children = [_tree(child) for child in _list(spec["children_spec"])]
    if kind is None:
        if context is not None or children:
            raise Refused("holds inputs or outputs of no known kind; refused")
        return {"type": None, "context": None, "children_spec": []}
    if kind not in _TREES:
        raise Refused(f"takes or returns a {str(kind)[:80]}, not a tuple, list or dictionary; refused")
    if kind in ("builtins.tuple", "builtins.list"):
        context = "null"
    else:
        try:
            keys = json.loads(context)
        except (ValueError, TypeError, RecursionError) as error:
            raise Refused("holds inputs or outputs of no known kind; refused") from error
        for key in _list(keys):
            if type(key) is not int:
                _check_text(key, _PATH)
        context = json.dumps(keys)
    return {"type": kind, "context": context, "children_spec": children}


def _walk(tree: Any, keys: bool = True) -> None:
    """Check every value by its key. Node metadata is emptied."""
    stack = [tree]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack += value
        elif isinstance(value, dict):
            if isinstance(value.get("target"), str) and "metadata" in value:
                value["metadata"] = {}
            for key, inner in value.items():
                check = _CHECKS.get(key) if keys else None
                if key == "name" and "arg" in value:
                    check = _argument_name
                if check is not None:
                    check(inner)
                elif key in _IDENTIFIED:
                    for name, kind in _mapping(inner).items():
                        _identifier(name)
                        stack.append(kind)
                    continue
                elif isinstance(inner, str) and key not in _FREE:
                    raise Refused(f"holds a text as {key[:40]!r}, where torch.export writes none; refused")
                stack.append(inner)


def _called(target: Any) -> None:
    """Refuse a target that is neither an operator that computes tensors nor arithmetic of sizes."""
    match = _OPERATOR.fullmatch(target) if isinstance(target, str) else None
    if target not in _CALLABLE and not (match and permitted(match[1], match[2])):
        start = str(target)[:80]
        why = next((why for name, why in _WAYS_OUT.items() if start.startswith(name)), None)
        raise Refused(f"calls {start!r}, {why or 'which does more than compute tensors; refused'}")


_ROUNDED = "which rounds activations to whole numbers; quantise the weights alone, or by pt2e, which are explained"
_WAYS_OUT = {
    "torch.ops.torchao.quantize_affine": _ROUNDED,
    "torch.ops.torchao.choose_qparams_affine": _ROUNDED,
    "torch.ops.torchao.": "an operator of torchao's own; save torch.export.export(...).run_decompositions() instead",
    "torch.ops.export.access_subclass_inner_tensor": "for weights of a class of their own, such as torchao's; save "
    "torch.export.export(...).run_decompositions() instead",
    "torch.ops.higher_order.out_dtype": "which computes on whole numbers; call convert_pt2e without "
    "use_reference_representation",
}


def _identifier(name: Any) -> None:
    """Refuse a name for torch's source code that is no identifier."""
    if name is not None and not (
        isinstance(name, str) and name.isascii() and name.isidentifier() and not keyword.iskeyword(name)
    ):
        raise Refused(f"holds {str(name)[:60]!r} where a name belongs; refused")


def _argument_name(name: Any) -> None:
    """Check the name of an operator's argument, which may be missing or a Python keyword (`from`)."""
    if name != "" and name not in ("from", "lambda"):
        _identifier(name)


def _check_text(name: Any, pattern: re.Pattern[str]) -> None:
    """Refuse what is no text of that pattern."""
    if not isinstance(name, str) or not pattern.fullmatch(name):
        raise Refused(f"holds {str(name)[:60]!r} where a name belongs; refused")


def _path(name: Any) -> None:
    _check_text(name, _PATH)


def _expression(expression: Any) -> None:
    """Refuse what is no size expression."""
    if not isinstance(expression, str) or not _is_arithmetic(expression):
        raise Refused(f"holds {str(expression)[:60]!r} where a size expression belongs; refused")


def _objects(value: Any) -> None:
    """Refuse any value but an empty one."""
    if value:
        raise Refused("holds objects other than tensors; refused")


def _of_types(*kinds: type) -> Callable[[Any], None]:
    """A check that a value, or each value in a list, has one of these types."""

    def check(value: Any) -> None:
        """Refuse values of other types."""
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, list):
                check(inner)
            elif type(inner) not in kinds and not (float in kinds and inner in _NOT_FINITE):
                raise Refused(f"holds {str(inner)[:60]!r} where torch.export writes a number; refused")

    return check


def _device(value: Any) -> None:
    _check_text(value, re.compile(r"[a-z]+"))


_CHECKS: Mapping[str, Callable[[Any], None]] = {
    "target": _called,
    "name": _identifier,
    "as_name": _identifier,
    "expr_str": _expression,
    "type": _device,
    "as_custom_obj": _objects,
    "custom_obj": _objects,
    "custom_obj_values": _objects,
    "as_operator": _called,
    "as_int": _of_types(int),
    "as_ints": _of_types(int),
    "as_int_lists": _of_types(int),
    "as_float": _of_types(float, int),
    "as_floats": _of_types(float, int),
    "as_float_lists": _of_types(float, int),
    "as_bool": _of_types(bool),
    "as_bools": _of_types(bool),
    **dict.fromkeys(_TARGETED, _path),
}
_IDENTIFIED = ("tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values")
_NOT_FINITE = ("Infinity", "-Infinity", "NaN")  # strings, since JSON has no such numbers
_FREE = ("as_string", "as_strings")


def _guard(code: Any) -> str:
    """A condition on input sizes, such as `L['x'].size()[0] >= 2`, which torch runs as Python. Raises `Refused`."""
    try:
        tree = ast.parse(str(code), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Refused(f"holds {str(code)[:60]!r} where a condition on input sizes belongs; refused") from error
    for node in ast.walk(tree):
        if not _is_condition(node):
            raise Refused(f"holds {str(code)[:60]!r} where a condition on input sizes belongs; refused")
    return ast.unparse(tree)


def _is_condition(node: ast.AST) -> bool:
    """Whether a node of a condition's syntax tree only reads sizes and compares numbers."""
    if isinstance(node, ast.Name):
        return node.id == "L"
    if isinstance(node, ast.Attribute):
        return node.attr in ("size", "stride", "storage_offset")
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) and not node.args and not node.keywords
    if isinstance(node, ast.Constant):
        return type(node.value) in (int, float, bool) or (isinstance(node.value, str) and node.value.isidentifier())
    return isinstance(
        node,
        (ast.Expression, ast.BoolOp, ast.boolop, ast.Compare, ast.cmpop, ast.Subscript, ast.expr_context, ast.UnaryOp,
         ast.unaryop, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod, ast.Div),
    )  # fmt: skip


def _is_arithmetic(expression: str) -> bool:
    """Whether a size expression, which torch evaluates, has only numbers, symbols and known functions."""
    if len(expression) > 4096:
        return False
    try:
        tree = ast.parse(expression, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    allowed = (ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.BinOp, ast.UnaryOp,
               ast.Compare, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.unaryop,
               ast.cmpop)  # fmt: skip
    powers = 0
    for node in ast.walk(tree):
        if not isinstance(node, allowed):
            return False
        if isinstance(node, ast.Call):
            if not isinstance(node.func, ast.Name) or node.func.id not in _FUNCTIONS:
                return False
            powers += node.func.id in _POWERS
        elif isinstance(node, ast.keyword):
            if node.arg not in _FLAGS:
                return False
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, str) and not (node.value.isascii() and node.value.isidentifier()):
                return False
            if isinstance(node.value, int) and abs(node.value) >= 1 << 63:
                return False
        powers += isinstance(node, ast.Pow)
    return powers == 0 or _is_small(tree)


def _is_small(tree: ast.AST) -> bool:
    """Whether every power has a small exponent and no power as its base. Other expressions could take forever."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _POWERS:
            base, exponent = (*node.args, None, None)[:2]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            base, exponent = node.left, node.right
        else:
            continue
        if isinstance(exponent, ast.Call) and len(exponent.args) == 1:
            exponent = exponent.args[0]
        if isinstance(exponent, ast.UnaryOp):
            exponent = exponent.operand
        number = exponent.value if isinstance(exponent, ast.Constant) else None
        if base is None or not isinstance(number, int | float) or number > 16:
            return False
        if any(isinstance(n, ast.Pow) or (isinstance(n, ast.Name) and n.id in _POWERS) for n in ast.walk(base)):
            return False
    return True


def _mapping(value: Any, *needed: str) -> dict[str, Any]:
    """The value, a dictionary with the `needed` keys. Raises `Refused` otherwise."""
    if not isinstance(value, dict) or not all(name in value for name in needed):
        raise Refused("holds a program that is not as torch.export writes it; refused")
    return value


def _list(value: Any) -> list[Any]:
    """The value, a list. Raises `Refused` otherwise."""
    if not isinstance(value, list):
        raise Refused("holds a program that is not as torch.export writes it; refused")
    return value
