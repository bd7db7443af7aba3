"""Checks the pickles of a TorchScript archive before torch reads them: nothing is imported or built."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from heatcli.artifact.archive import Refused

OBJECTS = re.compile(r"__torch__\.torch\.classes\.(quantized|rnn)\.\w+", re.ASCII)  # packed weights, in C++
DEEPEST = 64  # levels of brackets, indents and containers; torch's printer needs 4 levels of brackets
MOST = 10_000_000  # values that a pickle may expand to, and calls during loading
NAMES = re.compile(r"(?:\.\s*)?[A-Za-z_]\w*(?:\s*\.\s*\w+)*", re.ASCII)  # chains a.b.c
BLANKS = re.compile(r"\s+")

_SIZES = {
    f"{name}Storage": size
    for size, names in {
        1: "Byte Char Bool QInt8 QUInt8", 2: "Half BFloat16 Short", 4: "Float Int QInt32",
        8: "Double Long ComplexFloat", 16: "ComplexDouble",
    }.items()
    for name in names.split()
}  # fmt: skip


class _Object:
    """An object of one of the archive's own classes, or a named constant. `state`: its arguments."""

    def __init__(self, state: object = None) -> None:
        self.state = state


class _Pairs(list[object]):
    """A dictionary as keys and values in turn."""


def check_pickle(name: str, content: bytes, sizes: Mapping[str, int]) -> None:
    """Check that TorchScript's writer may have written the pickle `name`. Raises `Refused`.

    `sizes`: the bytes of each entry of the archive that holds a storage.
    """
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
        """The only value of the pickle. Raises `ValueError` for another protocol, or for more than one value."""
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
        """The next `size` bytes."""
        self._position += size
        if self._position > len(self._content):
            raise ValueError("cut short")
        return self._content[self._position - size : self._position]

    def number(self, form: struct.Struct) -> Any:
        """The next number, unpacked by `form`."""
        (value,) = form.unpack_from(self._content, self._position)
        self._position += form.size
        return value

    def line(self) -> str:
        """The text up to the next line break."""
        end = self._content.index(b"\n", self._position)
        return self._take(end + 1 - self._position)[:-1].decode()

    def push(self, value: object) -> None:
        """Put a value on the stack."""
        self._stacks[-1].append(value)

    def pop(self) -> Any:
        """Take the last value from the stack. Raises `IndexError` if no value is left above the open mark."""
        return self._stacks[-1].pop()

    def top(self, kind: type) -> Any:
        """The last value of the stack, which stays there. Raises `TypeError` if it has another type."""
        value = self._stacks[-1][-1]
        if type(value) is not kind:
            raise TypeError(f"a {type(value).__name__}, not a {kind.__name__}")
        return value

    def mark(self) -> None:
        """Open a mark: the values that follow are collected by `marked`."""
        self._stacks.append([])

    def marked(self) -> list[Any]:
        """Close the last mark: the values since then. Raises `ValueError` if no mark is open."""
        if len(self._stacks) == 1:
            raise ValueError("no mark")
        return self._stacks.pop()

    def remember(self, number: int) -> None:
        """Enter the last value in the memo. Raises `ValueError` if `number` is not the next one."""
        if number != len(self._memo):
            raise ValueError("out of order")
        self._memo.append(self._stacks[-1][-1])

    def recall(self, number: int) -> None:
        """Push entry `number` of the memo."""
        self.push(self._memo[number])

    def tuple(self, count: int) -> None:
        """Push the last `count` values as a tuple."""
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def long(self) -> None:
        """Push a whole number of up to 255 bytes."""
        size = self._take(1)[0]
        self.push(int.from_bytes(self._take(size), "little", signed=True))

    def text(self) -> None:
        """Push a text."""
        self.push(self._take(self.number(_U32)).decode())

    def named(self) -> None:
        """Push what stands for a class or function named by module and name. Raises `Refused` for other names."""
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
        """Push a placeholder for an object. Raises `TypeError` for a class that is not the archive's own."""
        if self.pop() != () or self.pop() is not _Object:
            raise TypeError("no object")
        self.push(_Object())

    def call(self) -> None:
        """Push the result of a function that `named` pushed. Raises `TypeError` if its arguments are no tuple."""
        arguments, function = self.pop(), self.pop()
        if function is _Object:  # an enumeration's member: its value, not in a tuple
            self.push(_Object(arguments))
        elif type(arguments) is not tuple:
            raise TypeError("no arguments")
        else:
            self.push(function(*arguments))

    def build(self) -> None:
        """Give an object its state. Raises `ValueError` if it has one."""
        state = self.pop()
        if self.top(_Object).state is not None:
            raise ValueError("built twice")
        self.top(_Object).state = (state,)

    def stored(self) -> None:
        """Push a storage. Raises `Refused` unless the archive has an entry of its size."""
        kind, storage, key, _, count = self.pop()
        entry = f"{self._name.removesuffix('.pkl')}/{key}"
        if kind != "storage" or type(count) is not int or self._sizes.get(entry) != count * _SIZES[storage]:
            raise Refused(f"holds a tensor whose storage {entry[:80]} is missing or of another size; refused")
        self.push(_Storage(count))

    def append(self, values: list[Any]) -> None:
        """Add values to the last value, a list."""
        self.top(list).extend(values)

    def pairs(self, values: list[Any]) -> None:
        """Add keys and values, in turn, to the last value. Raises `ValueError` for a key without value."""
        if len(values) % 2:
            raise ValueError("a key without value")
        self.top(_Pairs).extend(values)


def _check_class(name: str) -> None:
    """Refuse objects of C++ classes other than packed weights of quantised layers."""
    if name.startswith("__torch__.torch.classes") and not OBJECTS.fullmatch(name):
        raise Refused(f"holds an object of {name[:80]}; refused")


class _Storage(NamedTuple):
    """A storage of `numel` numbers."""

    numel: int


_U8, _U16, _U32, _I32, _F64 = (struct.Struct(form) for form in ("<B", "<H", "<I", "<i", ">d"))
_STOP = b"."[0]
_STEPS: Mapping[int, Callable[[_Reader], None]] = {
    b"c"[0]: _Reader.named,
    b"q"[0]: lambda r: r.remember(r.number(_U8)),
    b"r"[0]: lambda r: r.remember(r.number(_U32)),
    b"h"[0]: lambda r: r.recall(r.number(_U8)),
    b"j"[0]: lambda r: r.recall(r.number(_U32)),
    b")"[0]: lambda r: r.push(()),
    b"]"[0]: lambda r: r.push([]),
    b"}"[0]: lambda r: r.push(_Pairs()),
    b"("[0]: _Reader.mark,
    b"t"[0]: lambda r: r.push(tuple(r.marked())),
    b"\x85"[0]: lambda r: r.tuple(1),
    b"\x86"[0]: lambda r: r.tuple(2),
    b"\x87"[0]: lambda r: r.tuple(3),
    b"\x81"[0]: _Reader.new,
    b"R"[0]: _Reader.call,
    b"b"[0]: _Reader.build,
    b"Q"[0]: _Reader.stored,
    b"u"[0]: lambda r: r.pairs(r.marked()),
    b"e"[0]: lambda r: r.append(r.marked()),
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


def _tensor(storage: _Storage, offset: Any, shape: Any, strides: Any, *_: Any) -> None:
    """Refuse a tensor that does not lie inside its storage."""
    whole = [offset, *shape, *strides]
    if any(type(n) is not int or n < 0 for n in whole) or len(shape) != len(strides):
        raise Refused("holds a tensor of no valid shape; refused")
    if (
        0 not in shape
        and offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) >= storage.numel
    ):
        raise Refused("holds a tensor that reaches outside its storage; refused")


def _typed(value: object, kind: str) -> object:
    """A container, whose type is given in TorchScript's notation. Raises `Refused` for its class."""
    for chain in NAMES.findall(kind):
        _check_class(BLANKS.sub("", chain))
    return value


def _listed(values: list[Any]) -> list[Any]:
    """A list with a type. Raises `ValueError` for other values."""
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
            if id(inner) in on_path or len(path) > 4 * DEEPEST:
                raise Refused(f"holds {name}, which is nested too deeply; refused")
            path.append((inner, _inside(inner)))
            on_path.add(id(inner))
            continue
        parts = [done[id(inner)] for inner in _inside(value)]
        done[id(value)] = 1 + max((d for d, _ in parts), default=0), 1 + sum(n for _, n in parts)
        path.pop()
        on_path.discard(id(value))
    depth, count = done[id(found)]
    if depth > 4 * DEEPEST or count > MOST:
        raise Refused(f"holds {name}, which stands for too much; refused")


def _inside(value: object) -> list[object]:
    """The containers and objects directly inside a value."""
    held = [value.state] if isinstance(value, _Object) else value if isinstance(value, (list, tuple)) else ()
    return [inner for inner in held if isinstance(inner, (_Object, list, tuple))]
