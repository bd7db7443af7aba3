"""Records every ATen call of a running module, with in-place writes turned into new values.

A dispatch mode sees every ATen call of a ScriptModule, an ONNX graph or an exported program. No memory is written.
A call that would write in place computes a new value instead. From then on the new value stands for the tensor written
to, for its base if the tensor is a view, and for all other views of that base. So calls do not depend on when memory is
read, parameters keep their values, and two runs of one module are alike.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from heatcli.graph.fused import FUSED
from heatcli.graph.nested import mapped, tensors_mapped
from heatcli.graph.quantised import QUANTISED, WHOLE_NUMBERS
from heatcli.graph.schemas import bound, is_random, is_written, pure_form, tensors_in, title_of, viewed
from heatcli.graph.spectra import UnknownError, form_on_pairs
from heatcli.system.torch_private import DispatchMode, HigherOrderOperator, library_name_of, name_of, schema_of

_ATEN = torch.ops.aten
NODE: ContextVar[str] = ContextVar("node", default="")  # the artifact's own name of the node that runs


class NotFollowedError(RuntimeError):
    """A call that cannot be expressed as a pure computation, or whose value is random."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A call that writes nowhere. Its tensors are kept alive, so that id(tensor) identifies a value.

    `node`: the artifact's name of the node that made the call, if nodes have names.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any
    node: str = ""


@dataclass(slots=True, eq=False)
class _Memory:
    """The memory that a base and its views share: how often it was written, and the artifact's tensors in it."""

    version: int = 0
    roots: list[Tensor] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Value:
    """The value that a module's tensor stands for: `now`, at a `version` of its memory.

    For a view: the base, the function from base to view, and the function that writes a view back into the base.
    """

    now: Tensor
    memory: _Memory
    version: int = 0
    base: _Value | None = None
    view: Callable[[Tensor], Tensor] | None = None
    put_back: Callable[[Tensor, Tensor], Tensor] | None = None


class Recorder(DispatchMode):
    """`calls`: the recorded calls in order, on values. `value_of` gives the value that a module's tensor stands for.

    `standardised`: running means that batch norms in training mode do not read. `refused`: why recording stopped, if it
    did, since the module's interpreter may raise another error. `failed`: the exception of the last call that failed.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        self.refused: NotFollowedError | None = None
        self.failed: Exception | None = None
        self.standardised: list[Tensor] = []
        self._values: dict[int, _Value] = {}
        self._seen: list[Tensor] = []  # kept alive, so that no new tensor gets a known id
        self._memories: dict[int, _Memory] = {}  # by address, for tensors that no call returned

    def close(self) -> None:
        """Forget the tensors of the module: values refer to the recorder, so these would stay in memory for a while."""
        self._values.clear()
        self._memories.clear()
        self._seen.clear()
        self.calls = []

    def value_of(self, tensor: Tensor) -> Tensor:
        """The tensor that holds the current value of `tensor`, a tensor of the module; of the same shape and dtype."""
        return self._current(self._value_for(tensor))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            return self._recorded(func, args, kwargs or {})
        except NotFollowedError as error:
            self.refused = error
            raise
        except Exception as error:
            self.failed = error
            raise

    def _recorded(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a call of the module on current values, and run it. Raises `NotFollowedError`."""
        name, title = library_name_of(func), title_of(func)
        try:
            instead = FUSED.get(title) or QUANTISED.get(name) or form_on_pairs(func, title, args, kwargs)
        except UnknownError as error:
            raise NotFollowedError(str(error)) from error
        if instead is not None:
            with self:
                return instead(*args, **kwargs)
        if name.startswith(("quantized::", "quantized_decomposed::")):
            raise NotFollowedError(f"calls {name}, which heatcli does not know; export it without quantisation")
        if name in WHOLE_NUMBERS:
            raise NotFollowedError(f"calls {name} on whole numbers, which no relevance passes; {WHOLE_NUMBERS[name]}")
        if isinstance(func, HigherOrderOperator):
            raise NotFollowedError(f"calls torch's {name_of(func)}, which heatcli does not know")
        if is_random(func, args, kwargs):
            raise NotFollowedError(f"draws random numbers ({func}); export it in evaluation mode, without them")
        if torch.Tag.inplace_view in func.tags:
            return self._shape_in_place(func, args, kwargs)
        if schema_of(func).is_mutable:
            return self._in_place(func, args, kwargs)
        given, named = tensors_mapped(self.value_of, (args, kwargs))
        if func is _ATEN.native_batch_norm.default and given[5]:
            # Training mode writes running statistics, which the output does not depend on.
            self.standardised += [x for x in given[3:4] if x is not None]
            output = self._call(func, (*given[:3], None, None, *given[5:]), named)
        else:
            output = self._call(func, given, named)
        origin = {
            id(now): tensor for now, tensor in zip(tensors_in(given, named), tensors_in(args, kwargs), strict=True)
        }
        if func.is_view:
            self._note_views(func, args, kwargs, output)
        return tensors_mapped(lambda x: origin.get(id(x), x), output)

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a call that writes nowhere, and record it."""
        if func in _OVERWRITING:
            args, kwargs = self._without_losers(func, args, kwargs)
        if func is _ATEN.detach.default:  # cuts gradients in training; the function itself goes on
            func = _ATEN.alias.default
        output = func(*args, **kwargs)
        if name_of(func) in _UNWRITTEN:
            output.zero_()  # or the graph would hold whatever lay in memory
        self.calls.append(Call(func, args, kwargs, output, NODE.get()))
        if not func.is_view:
            for x in tensors_in(output):
                if id(x) not in self._values:
                    self._keep(x, _Value(x, _Memory()))
        return output

    def _without_losers(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of an indexed write, with 0 for values that other values of the same call overwrite.

        If several values go to one element, one of them stays, but torch's derivative counts all of them. Which one
        stays may depend on the image, so it is computed in the graph.
        """
        arguments = bound(func, args, kwargs)
        whole = arguments["self"]
        (values,) = (arguments[name] for name in ("src", "source", "values") if name in arguments)
        where = [arguments[name] for name in ("dim", "index", "indices") if name in arguments]
        if not whole.is_floating_point() or arguments.get("accumulate"):
            return args, kwargs
        read = _OVERWRITING[func]
        shape = read(whole, *where).shape
        order = torch.arange(shape.numel(), device=whole.device).reshape(shape)
        nothing = torch.full(whole.shape, -1, device=whole.device)
        if torch.equal(read(func(nothing, *where, order), *where), order):
            return args, kwargs
        for dim, size in enumerate(shape if values.dim() == len(shape) else ()):
            if values.shape[dim] > size:  # `scatter` may not read all values
                values = self._call(_ATEN.slice.Tensor, (values, dim, 0, size), {})
        if values.shape != shape:
            values = self._call(_ATEN.expand.default, (values, list(shape)), {})
        last = self._call(read, (self._call(func, (nothing, *where, order), {}), *where), {})
        lost = self._call(_ATEN.ne.Tensor, (last, order), {})
        return (whole, *where, self._call(_ATEN.masked_fill.Scalar, (values, lost, 0), {})), {}

    # --- what tensors stand for -----------------------------------------------------------------------------------

    def _value_for(self, tensor: Tensor) -> _Value:
        """The value of a tensor. A tensor that no call returned, a parameter, is a root of its own memory."""
        value = self._values.get(id(tensor))
        if value is None:
            memory = self._memories.setdefault(_address(tensor), _Memory()) if tensor.numel() else _Memory()
            twin = next((root for root in memory.roots if _same_place(root, tensor)), None)
            if memory.version and twin is None:
                raise NotFollowedError("reads memory that was written through another tensor")
            memory.roots.append(tensor)
            value = _Value(tensor, memory) if twin is None else self._value_for(twin)
            self._keep(tensor, value)
        return value

    def _keep(self, tensor: Tensor, value: _Value) -> None:
        """Let a tensor of the module stand for `value`."""
        self._values[id(tensor)] = value
        self._seen.append(tensor)

    def _current(self, value: _Value) -> Tensor:
        """The value now: of an outdated view, the view of its base's current value."""
        if value.version != value.memory.version and value.base is not None and value.view is not None:
            value.now = value.view(self._current(value.base))
            value.version = value.memory.version
        return value.now

    def _note_views(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Remember which base the outputs are views of, for writes to either."""
        base = self._value_for(viewed(func, args, kwargs))
        others = args[1:]
        for index, tensor in enumerate(output if isinstance(output, list | tuple) else [output]):
            if id(tensor) in self._values or tensor is base.now:
                continue

            def view(x: Tensor, index: int = index) -> Tensor:
                result = self._call(func, (x, *others), kwargs)
                return result[index] if isinstance(result, list | tuple) else result  # type: ignore[no-any-return]

            def put_back(whole: Tensor, part: Tensor, index: int = index) -> Tensor:
                return self._inverse(func, whole, part, others, kwargs, index)

            self._keep(tensor, _Value(tensor, base.memory, base.memory.version, base, view, put_back))

    # --- what is written in place ---------------------------------------------------------------------------------

    def _in_place(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute an in-place or out= call without writing; its outputs become the values of the tensors written to."""
        arguments = bound(func, args, kwargs)
        targets = [
            a.name for a in schema_of(func).arguments if is_written(a) and isinstance(arguments.get(a.name), Tensor)
        ]
        if not targets or name_of(func) in _RESIZING:
            raise _unfollowed(func)
        outputs, news = self._computed(func, arguments, targets)
        for name, new in zip(targets, news, strict=True):
            self._write(arguments[name], new)
        left = iter(outputs)
        changed = iter([arguments[name] for name in targets])
        returned = [next(changed) if r.alias_info else next(left) for r in schema_of(func).returns]
        return None if not returned else returned[0] if len(returned) == 1 else tuple(returned)

    def _computed(
        self, func: Any, arguments: dict[str, Any], targets: list[str]
    ) -> tuple[list[Tensor], list[Tensor]]:  # fmt: skip
        """The outputs that are not written, and the new value of each target."""
        first = arguments[targets[0]]
        source = arguments.get("src", arguments.get("value", 0))
        if func is _ATEN.copy_.default and isinstance(source, Tensor):
            return [], [self.value_of(source)]
        if func in (_ATEN.copy_.default, _ATEN.fill_.Scalar, _ATEN.zero_.default):  # exports copy numbers too
            return [], [self._call(_ATEN.full_like.default, (self.value_of(first), source), {})]
        if func is _ATEN.fill_.Tensor:
            return [], [self.value_of(arguments["value"])]
        if func is _ATEN.rrelu_with_noise_.default:  # evaluation mode; training mode is refused as random
            lower, upper = arguments.get("lower", 1 / 8), arguments.get("upper", 1 / 3)
            new = self._call(_ATEN.leaky_relu.default, (self.value_of(first), (lower + upper) / 2), {})
            return [], [new, *(self.value_of(arguments[name]) for name in targets[1:])]
        pure = pure_form(func)
        if pure is None:
            raise _unfollowed(func)
        given = {n: tensors_mapped(self.value_of, x) for n, x in arguments.items()}
        positional = [given[a.name] for a in schema_of(pure).arguments if not a.kwarg_only and a.name in given]
        named = {a.name: given[a.name] for a in schema_of(pure).arguments if a.kwarg_only and a.name in given}
        outputs = tensors_in(self._call(pure, tuple(positional), named))
        beside = sum(r.alias_info is None for r in schema_of(func).returns)
        return outputs[:beside], outputs[beside : beside + len(targets)]

    def _write(self, tensor: Tensor, new: Tensor) -> None:
        """Make `new` the value of `tensor`, and update its bases. Views of the same memory become outdated."""
        value = self._value_for(tensor)
        if any(not _same_place(root, value.memory.roots[0]) for root in value.memory.roots[1:]):
            raise NotFollowedError("writes into memory that several parameters share")
        value.now = self._like(self._current(value), new)
        value.memory.version += 1
        value.version = value.memory.version
        while value.base is not None and value.put_back is not None:
            base = value.base
            whole = base.now if base.version == value.memory.version - 1 else self._before(base)
            base.now = self._like(whole, value.put_back(whole, value.now))
            base.version = value.version
            value = base

    def _before(self, base: _Value) -> Tensor:
        """The value of a tensor before the write in progress."""
        base.memory.version -= 1
        try:
            return self._current(base)
        finally:
            base.memory.version += 1

    def _like(self, old: Tensor, new: Tensor) -> Tensor:
        """`new` with the dtype, shape and strides of `old`, whose place it takes."""
        if new.dtype != old.dtype:
            new = self._call(_ATEN._to_copy.default, (new,), {"dtype": old.dtype})
        if new.shape != old.shape:
            new = self._call(_ATEN.expand.default, (new, list(old.shape)), {})
        if new.stride() != old.stride() and old.numel():
            new = self._laid_out(new, old.stride())
        return new

    def _laid_out(self, x: Tensor, strides: tuple[int, ...]) -> Tensor:
        """A copy whose dimensions lie in memory in the order of those strides, largest first, for `as_strided`."""
        order = sorted(range(x.dim()), key=lambda d: -strides[d])
        back = sorted(range(x.dim()), key=lambda d: order[d])
        dense = self._call(_ATEN.permute.default, (x, order), {})
        dense = self._call(_ATEN.clone.default, (dense,), {"memory_format": torch.contiguous_format})
        return self._call(_ATEN.permute.default, (dense, back), {})  # type: ignore[no-any-return]

    def _shape_in_place(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """A call that changes its argument's shape (`squeeze_`): the argument becomes a view of its earlier value."""
        pure = pure_form(func)
        tensor, others = args[0], args[1:]
        value = self._value_for(tensor)
        if pure is None or any(root is tensor for root in value.memory.roots):
            raise _unfollowed(func)
        if value.now is tensor:  # recorded calls keep a tensor of the old shape
            value.now = self._replaced(tensor)
        before = _Value(value.now, value.memory, value.version, value.base, value.view, value.put_back)
        func(tensor, *others, **kwargs)
        now = self._call(pure, (self._current(before), *others), kwargs)
        self._values[id(tensor)] = _Value(
            now, before.memory, before.version, before,
            lambda x: self._call(pure, (x, *others), kwargs),
            lambda whole, part: self._inverse(pure, whole, part, others, kwargs, 0),
        )  # fmt: skip
        return tensor  # type: ignore[no-any-return]

    def _replaced(self, tensor: Tensor) -> Tensor:
        """A twin tensor that replaces `tensor` in all calls so far."""
        twin = tensor.detach()

        def swap(x: Any) -> Any:
            return twin if x is tensor else x

        for number, call in enumerate(self.calls):
            if any(x is tensor for x in tensors_in(call.args, call.kwargs, call.output)):
                args, kwargs, output = mapped(swap, (call.args, call.kwargs, call.output))
                self.calls[number] = Call(call.target, args, kwargs, output, call.node)
        return twin

    def _inverse(
        self, func: Any, whole: Tensor, part: Tensor, others: tuple[Any, ...], kwargs: dict[str, Any], index: int
    ) -> Tensor:
        """`whole` with `part` in place of the view that `func` makes of it."""
        title = name_of(func)
        if title in _SCATTERS:
            return self._call(_SCATTERS[title], (whole, part, *others), kwargs)  # type: ignore[no-any-return]
        if title in ("split", "split_with_sizes", "unbind"):
            named = bound(func, (whole, *others), kwargs)
            dim = named.get("dim", 0)
            if title == "unbind":
                return self._call(_ATEN.select_scatter.default, (whole, part, dim, index), {})  # type: ignore[no-any-return]
            sizes = named.get("split_sizes")
            start = sum(sizes[:index]) if sizes is not None else named["split_size"] * index
            end = start + part.shape[dim]
            return self._call(_ATEN.slice_scatter.default, (whole, part, dim, start, end), {})  # type: ignore[no-any-return]
        if title == "as_strided" and whole.is_contiguous():  # torch's derivative of as_strided_scatter is wrong
            return self._put_strided(whole, part, *others, **kwargs)
        if title == "permute":
            back = sorted(range(whole.dim()), key=lambda d: [x % whole.dim() for x in others[0]][d])
            return self._call(func, (part, back), {})  # type: ignore[no-any-return]
        if title in ("transpose", "t", "alias", "detach", "lift_fresh"):
            return self._call(func, (part, *others), kwargs)  # type: ignore[no-any-return]
        if whole.numel() == part.numel():  # view, squeeze, unsqueeze, an expand to the same size
            return self._call(_ATEN.reshape.default, (part, list(whole.shape)), {})  # type: ignore[no-any-return]
        raise NotFollowedError(f"writes into a view made by {func}, which heatcli cannot put back")

    def _put_strided(
        self, whole: Tensor, part: Tensor, size: list[int], stride: list[int], storage_offset: int | None = None
    ) -> Tensor:
        """`whole` with `part` at the memory positions that size and stride select."""
        start = (storage_offset if storage_offset is not None else whole.storage_offset()) - whole.storage_offset()
        places = torch.arange(whole.numel(), device=whole.device).as_strided(size, stride, start).reshape(-1)
        flat = self._call(_ATEN.reshape.default, (whole, [1, -1]), {})  # one row, as for one image
        values = self._call(_ATEN.reshape.default, (part, [1, -1]), {})
        written = self._call(_ATEN.index_put.default, (flat, [None, places], values), {})
        return self._call(_ATEN.reshape.default, (written, list(whole.shape)), {})  # type: ignore[no-any-return]


_SCATTERS = {
    "slice": _ATEN.slice_scatter.default,
    "select": _ATEN.select_scatter.default,
    "diagonal": _ATEN.diagonal_scatter.default,
}
_UNWRITTEN = frozenset("empty empty_like empty_permuted empty_strided new_empty new_empty_strided".split())
_OVERWRITING = {  # indexed write → the read of the same elements
    _ATEN.scatter.src: _ATEN.gather.default,
    _ATEN.index_copy.default: _ATEN.index_select.default,
    _ATEN.index_put.default: _ATEN.index.Tensor,
}
_RESIZING = frozenset("resize_ resize_as_ set_".split())


def _unfollowed(func: Any) -> NotFollowedError:
    return NotFollowedError(f"writes in place by {func}, which heatcli cannot turn into a value")


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _same_place(a: Tensor, b: Tensor) -> bool:
    return (a.data_ptr(), a.shape, a.stride(), a.dtype) == (b.data_ptr(), b.shape, b.stride(), b.dtype)
