"""Checks a TorchScript archive entry by entry before torch reads any of it.

Its code has Python's syntax, but only the small part that torch's printer writes: names, calls, literals and
statements, no operators. So no two parsers can read it differently, and every called name can be looked up.
"""

from __future__ import annotations

import collections
import functools
import re
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from heatcli.artifact.archive import Buffer, Refused
from heatcli.graph.permitted import is_operator, permitted

_KEPT = re.compile(r"data\.pkl|constants\.pkl|code/[^.].*\.py|(data|constants)/\d+|(\.data/)?version|byteorder")
_DROPPED = re.compile(
    r".*\.debug_pkl|extra/.*|traced_inputs(/\d+|\.pkl)|bytecode\.pkl|bytecode/\d+|mobile_debug_handles\.pkl|"
    r"\.data/serialization_id"
)
_WORDS = "and or not lambda import from try global nonlocal yield async await del raise print fork awaitable".split()
_TEXT = r'"(?:[^"\\\n]|\\.)*+"(?!\s*["\'])'
_SOURCE = re.compile(
    rf"""(?:[ \n]++|(?!(?:{"|".join(_WORDS)})\b)[A-Za-z_]\w*+(?!["'])|-?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?j?(?!\w)
    |-(?=inf|nan)|->|{_TEXT}|{_TEXT.replace('"(', "'(", 1).replace('[^"', "[^'").replace('+"', "+'", 1)}
    |=(?!=)|[.,:()\[\]{{}}])*+""",
    re.ASCII | re.VERBOSE,
)
_TEXTS = re.compile(rf"{_TEXT}|'(?:[^'\\\n]|\\.)*+'")
_NAMES = re.compile(r"(?:\.\s*)?[A-Za-z_]\w*(?:\s*\.\s*\w+)*", re.ASCII)
_ATTRIBUTE = re.compile(r"^(?:class (\w+)\(|  (?:\w+ : |__annotations__\[.*\] = )(.+))", re.MULTILINE | re.ASCII)
_BLANKS = re.compile(r"\s+")
_METHOD = re.compile(r"^ *def (\w+)\(", re.MULTILINE | re.ASCII)
_OBJECTS = re.compile(r"__torch__\.torch\.classes\.(quantized|rnn)\.\w+", re.ASCII)
_INSTEAD = {"torch.set_grad_enabled": "; script it without torch.no_grad(), or export it as ONNX"}
_DEEPEST = 64  # brackets, indents, and nested containers; torch's printer needs 4 brackets
_MOST = 10_000_000  # values that a pickle may expand to, and calls during loading

_SIZES = {
    f"{name}Storage": size
    for size, names in {
        1: "Byte Char Bool QInt8 QUInt8", 2: "Half BFloat16 Short", 4: "Float Int QInt32",
        8: "Double Long ComplexFloat", 16: "ComplexDouble",
    }.items()
    for name in names.split()
}  # fmt: skip


def checked(entries: Mapping[str, Buffer]) -> dict[str, Buffer]:
    """The entries that torch may read. Raises `Refused`."""
    kept = {name: content for name, content in entries.items() if _KEPT.fullmatch(name)}
    for name in entries:
        if name not in kept and not _DROPPED.fullmatch(name):
            raise Refused(f"holds {name}, which is no part of TorchScript; refused")
    _check_code({name: bytes(content) for name, content in kept.items() if name.startswith("code/")})
    for name in ("data", "constants"):
        if f"{name}.pkl" in kept:
            sizes = {key: len(content) for key, content in kept.items() if key.startswith(f"{name}/")}
            _check_pickle(f"{name}.pkl", bytes(kept[f"{name}.pkl"]), sizes)
    return kept


def _check_code(sources: Mapping[str, bytes]) -> None:
    """Refuse code that torch's printer does not write, and names that may not be called."""
    try:
        code = b"\n".join(sources.values()).decode("ascii")
    except UnicodeDecodeError as error:
        raise Refused("holds code that is not TorchScript's; refused") from error
    match = _SOURCE.match(code)
    end = match.end() if match else 0
    if end != len(code):
        line = code[code.rfind("\n", 0, end) + 1 :].partition("\n")[0].strip()
        raise Refused(f"holds code that torch does not write: {line[:80]!r}; refused")
    for text in set(_TEXTS.findall(code)):
        _check_attribute(_said(text))
    bare = _TEXTS.sub("''", code)
    modules = {name.removeprefix("code/").removesuffix(".py").replace("/", ".") for name in sources}
    for chain in set(_NAMES.findall(bare)):
        _check_names(_BLANKS.sub("", chain), modules)
    depth = deepest = 0
    for bracket in re.findall(r"[()\[\]{}]", bare):
        depth += 1 if bracket in "([{" else -1
        deepest = max(deepest, depth)
    if max([deepest, *(len(indent) // 2 for indent in set(re.findall(r"^ *", bare, re.MULTILINE)))]) > _DEEPEST:
        raise Refused("holds code that is nested too deeply; refused")
    _check_types(sources)
    if "__setstate__" in bare:
        _check_loading(bare)


def _check_types(sources: Mapping[str, bytes]) -> None:
    """Refuse deeply nested classes (attributes of classes with attributes of classes …): torch resolves recursively."""
    holds: dict[str, list[str]] = {}
    for name, source in sources.items():
        module = name.removeprefix("code/").removesuffix(".py").replace("/", ".")
        held: list[str] = []
        for match in _ATTRIBUTE.finditer(source.decode()):
            if match[1]:
                held = holds.setdefault(f"{module}.{match[1]}", [])
            else:
                held += [_BLANKS.sub("", chain) for chain in _NAMES.findall(match[2]) if chain.startswith("__torch__")]
    level = {name for name in holds if name not in {inner for held in holds.values() for inner in held}}
    for _ in range(_DEEPEST):
        level = {inner for name in level for inner in holds.get(name, ())}
        if not level:
            return
    raise Refused("holds classes that are nested too deeply; refused")


def _said(text: str) -> str:
    """The value of a literal in TorchScript's code. Its escapes are Python's."""
    return text[1:-1].encode().decode("unicode_escape") if "\\" in text else text[1:-1]


def _check_names(chain: str, modules: Collection[str]) -> None:
    """Refuse forbidden calls in a chain `a.b.c`. The chain starts with a dot if it follows a call or an index."""
    root, *rest = chain.split(".")
    if root in ("torch", "ops"):
        called = ["aten", *rest] if root == "torch" else rest
        if len(called) != 2 or not permitted(*called):
            instead = _INSTEAD.get(chain, "")
            raise Refused(f"calls {chain[:80]}, which does more than compute tensors; refused{instead}")
        return
    if root == "__torch__":
        if _OBJECTS.fullmatch(chain):
            return
        rest = _members(chain, modules)
    for attribute in rest:
        _check_attribute(attribute)


def _members(chain: str, modules: Collection[str]) -> list[str]:
    """The members accessed on a class or function that the archive defines in one of its modules."""
    module = chain
    while module and module not in modules:
        module = module.rpartition(".")[0]
    if not module:
        raise Refused(f"names {chain[:80]}, which it does not hold; refused")
    return chain.removeprefix(module).split(".")[2:]


@functools.cache
def _is_refused(attribute: str) -> bool:
    return attribute in ("torch", "ops") or (is_operator(attribute) and not permitted("aten", attribute))


def _check_attribute(attribute: str) -> None:
    """Refuse the name of a forbidden operator, since `x.save(…)` and `getattr(x, "save")` call the operator too."""
    if attribute.isidentifier() and _is_refused(attribute):
        raise Refused(f"names {attribute}, which does more than compute tensors; refused")


def _methods(bare: str) -> Iterator[tuple[str, str]]:
    """Names and bodies of methods and functions in the code."""
    end = len(bare)
    for start in reversed(list(_METHOD.finditer(bare))):
        yield start[1], bare[start.end() : end]
        end = start.start()


def _check_loading(bare: str) -> None:
    """Refuse loops and endless recursion in code that runs during loading: `__setstate__` and all it may call.

    A call counts for all methods of that name.
    """
    methods = collections.defaultdict(list)
    for name, body in _methods(bare):
        methods[name].append(body)
    costs: dict[str, int] = {}
    called = {name: [n for body in bodies for n in re.findall(r"\w+", body) if n in methods]
              for name, bodies in methods.items()}  # fmt: skip
    path = ["__setstate__"] if "__setstate__" in methods else []
    on_path = set(path)
    while path:
        name = path[-1]
        if any(re.search(r"\b(while|for)\b", body) for body in methods[name]):
            raise Refused("runs a loop while it is loaded (__setstate__); refused")
        following = next((n for n in called[name] if n not in costs), None)
        if following is None:
            costs[name] = 1 + sum(costs[n] for n in called[name])
            on_path.discard(path.pop())
        elif following in on_path or len(path) > _DEEPEST:
            raise Refused("calls itself while it is loaded (__setstate__); refused")
        else:
            path.append(following)
            on_path.add(following)
    if costs.get("__setstate__", 0) > _MOST:
        raise Refused("runs for too long while it is loaded (__setstate__); refused")


class _Object:
    """An object of one of the archive's own classes, or a named constant. `state`: its arguments."""

    def __init__(self, state: object = None) -> None:
        self.state = state


class _Pairs(list[object]):
    """A dictionary as keys and values in turn."""


def _check_pickle(name: str, content: bytes, sizes: Mapping[str, int]) -> None:
    """Refuse a pickle that TorchScript's writer would not write. `sizes`: bytes of the entries of its tensors."""
    try:
        value = _Reader(name, content, sizes).read()
    except (IndexError, ValueError, TypeError, AttributeError, KeyError, struct.error) as error:
        raise Refused(f"holds {name}, which is no pickle of TorchScript's; refused") from error
    _check_nesting(name, value)


class _Reader:
    """Reads the subset of pickle that TorchScript writes. Nothing is imported; objects are placeholders.

    Memo numbers must count up, and values below an open mark must stay untouched, as torch's own reader assumes. Raises
    `Refused`, or various exceptions for other pickles.
    """

    def __init__(self, name: str, content: bytes, sizes: Mapping[str, int]) -> None:
        self._name, self._content, self._sizes = name, content, sizes
        self._position = 0
        self._stacks: list[list[Any]] = [[]]  # one more for each open mark
        self._memo: list[Any] = []

    def read(self) -> object:
        if self._take(2) != b"\x80\x02":
            raise ValueError("another protocol")
        while (opcode := self._content[self._position]) != _STOP:
            self._position += 1
            _STEPS[opcode](self)
        self._position += 1
        ((value,),) = self._stacks
        if self._position != len(self._content):
            raise ValueError("more than one pickle")
        return value

    def _take(self, size: int) -> bytes:
        self._position += size
        if self._position > len(self._content):
            raise ValueError("cut short")
        return self._content[self._position - size : self._position]

    def number(self, form: struct.Struct) -> Any:
        (value,) = form.unpack_from(self._content, self._position)
        self._position += form.size
        return value

    def line(self) -> str:
        end = self._content.index(b"\n", self._position)
        return self._take(end + 1 - self._position)[:-1].decode()

    def push(self, value: object) -> None:
        self._stacks[-1].append(value)

    def pop(self) -> Any:
        return self._stacks[-1].pop()

    def top(self, kind: type) -> Any:
        """The value that is filled next. Raises `TypeError` if it has another type."""
        value = self._stacks[-1][-1]
        if type(value) is not kind:
            raise TypeError(f"a {type(value).__name__}, not a {kind.__name__}")
        return value

    def mark(self) -> None:
        self._stacks.append([])

    def marked(self) -> list[Any]:
        """The values since the last mark."""
        if len(self._stacks) == 1:
            raise ValueError("no mark")
        return self._stacks.pop()

    def put(self, number: int) -> None:
        if number != len(self._memo):
            raise ValueError("out of order")
        self._memo.append(self._stacks[-1][-1])

    def get(self, number: int) -> None:
        self.push(self._memo[number])

    def tuple(self, values: Sequence[object]) -> None:
        self.push(tuple(values))

    def last(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def long(self) -> None:
        size = self._take(1)[0]
        self.push(int.from_bytes(self._take(size), "little", signed=True))

    def text(self) -> None:
        self.push(self._take(self.number(_U32)).decode())

    def named(self) -> None:
        module, name = self.line(), self.line()
        whole = f"{module}.{name}"
        if module == "torch" and name in _SIZES:
            self.push(name)
        elif whole.startswith("__torch__."):
            _check_class(whole)
            self.push(_Object)
        elif whole in _FUNCTIONS:
            self.push(_FUNCTIONS[whole])
        else:
            raise Refused(f"names {whole[:80]} in {self._name}, which TorchScript does not; refused")

    def new(self) -> None:
        if self.pop() != () or self.pop() is not _Object:
            raise TypeError("no object")
        self.push(_Object())

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if function is _Object:  # an enumeration's member: its value, not in a tuple
            self.push(_Object(arguments))
        elif type(arguments) is not tuple:
            raise TypeError("no arguments")
        else:
            self.push(function(*arguments))

    def build(self) -> None:
        state = self.pop()
        if self.top(_Object).state is not None:
            raise ValueError("built twice")
        self.top(_Object).state = (state,)

    def stored(self) -> None:
        kind, storage, key, _, count = self.pop()
        entry = f"{self._name.removesuffix('.pkl')}/{key}"
        if kind != "storage" or type(count) is not int or self._sizes.get(entry) != count * _SIZES[storage]:
            raise Refused(f"holds a tensor whose storage {entry[:80]} is missing or of another size; refused")
        self.push(_Storage(count))

    def items(self, values: list[Any]) -> None:
        if len(values) % 2:
            raise ValueError("a key without value")
        self.top(_Pairs).extend(values)


def _check_class(name: str) -> None:
    """Refuse objects of C++ classes other than packed weights of quantised layers."""
    if name.startswith("__torch__.torch.classes") and not _OBJECTS.fullmatch(name):
        raise Refused(f"holds an object of {name[:80]}; refused")


class _Storage(NamedTuple):
    numel: int


_U8, _U16, _U32, _I32, _F64 = (struct.Struct(form) for form in ("<B", "<H", "<I", "<i", ">d"))
_STOP = b"."[0]
_STEPS: Mapping[int, Callable[[_Reader], None]] = {
    b"c"[0]: _Reader.named,
    b"q"[0]: lambda r: r.put(r.number(_U8)),
    b"r"[0]: lambda r: r.put(r.number(_U32)),
    b"h"[0]: lambda r: r.get(r.number(_U8)),
    b"j"[0]: lambda r: r.get(r.number(_U32)),
    b")"[0]: lambda r: r.push(()),
    b"]"[0]: lambda r: r.push([]),
    b"}"[0]: lambda r: r.push(_Pairs()),
    b"("[0]: _Reader.mark,
    b"t"[0]: lambda r: r.tuple(r.marked()),
    b"\x85"[0]: lambda r: r.last(1),
    b"\x86"[0]: lambda r: r.last(2),
    b"\x87"[0]: lambda r: r.last(3),
    b"\x81"[0]: _Reader.new,
    b"R"[0]: _Reader.call,
    b"b"[0]: _Reader.build,
    b"Q"[0]: _Reader.stored,
    b"u"[0]: lambda r: r.items(r.marked()),
    b"e"[0]: lambda r: _appended(r.marked(), r),
    b"X"[0]: _Reader.text,
    b"N"[0]: lambda r: r.push(None),
    b"\x88"[0]: lambda r: r.push(True),
    b"\x89"[0]: lambda r: r.push(False),
    b"J"[0]: lambda r: r.push(r.number(_I32)),
    b"K"[0]: lambda r: r.push(r.number(_U8)),
    b"M"[0]: lambda r: r.push(r.number(_U16)),
    b"\x8a"[0]: _Reader.long,
    b"G"[0]: lambda r: r.push(r.number(_F64)),
}


def _appended(values: list[Any], reader: _Reader) -> None:
    reader.top(list).extend(values)


def _tensor(storage: _Storage, offset: Any, shape: Any, strides: Any, *_: Any) -> None:
    """Check that a tensor lies inside its storage."""
    whole = [offset, *shape, *strides]
    if any(type(n) is not int or n < 0 for n in whole) or len(shape) != len(strides):
        raise Refused("holds a tensor of no valid shape; refused")
    if (
        0 not in shape
        and offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) >= storage.numel
    ):
        raise Refused("holds a tensor that reaches outside its storage; refused")


def _typed(value: object, kind: str) -> object:
    """A container whose type is given in TorchScript's notation."""
    for chain in _NAMES.findall(kind):
        _check_class(_BLANKS.sub("", chain))
    return value


def _listed(values: list[Any]) -> list[Any]:
    if type(values) is not list:
        raise ValueError("no list")
    return values


_FUNCTIONS: Mapping[str, Callable[..., Any] | str] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_qtensor": _tensor,
    "collections.OrderedDict": lambda *_: _Pairs(),
    "torch.device": lambda kind, *index: (kind, *index),
    "torch.jit._pickle.restore_type_tag": lambda value, kind: _typed(value, kind),
    **{f"torch.jit._pickle.build_{kind}list": _listed for kind in "int tensor double bool".split()},
    **{f"torch.{name}": name for name in (
        "per_tensor_affine", "per_channel_affine", "per_channel_affine_float_qparams", "per_tensor_symmetric",
    )},
}  # fmt: skip


def _check_nesting(name: str, found: object) -> None:
    """Refuse values that contain themselves, are nested too deeply, or expand to too many values by repetition."""
    done: dict[int, tuple[int, int]] = {}  # id → (depth, number of values)
    path: list[tuple[object, list[object]]] = [(found, _inside(found))]
    on_path = {id(found)}
    while path:
        value, left = path[-1]
        while left and id(left[-1]) in done:
            left.pop()
        if left:
            inner = left[-1]
            if id(inner) in on_path or len(path) > 4 * _DEEPEST:
                raise Refused(f"holds {name}, which is nested too deeply; refused")
            path.append((inner, _inside(inner)))
            on_path.add(id(inner))
            continue
        parts = [done[id(inner)] for inner in _inside(value)]
        done[id(value)] = 1 + max((d for d, _ in parts), default=0), 1 + sum(n for _, n in parts)
        path.pop()
        on_path.discard(id(value))
    depth, count = done[id(found)]
    if depth > 4 * _DEEPEST or count > _MOST:
        raise Refused(f"holds {name}, which stands for too much; refused")


def _inside(value: object) -> list[object]:
    """The containers and objects directly inside a value."""
    held = [value.state] if isinstance(value, _Object) else value if isinstance(value, (list, tuple)) else ()
    return [inner for inner in held if isinstance(inner, (_Object, list, tuple))]
