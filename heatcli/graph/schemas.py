"""What torch's schema of an operator says of a call: names of arguments, what is written, what is random."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from heatcli.graph.nested import leaves
from heatcli.system.torch_private import name_of, schema_of

_ATEN = torch.ops.aten


def title_of(func: Any) -> str:
    """The name of an operator without its leading underscores."""
    return name_of(func).lstrip("_")


def has_free_shape(func: Any, indices: Iterable[torch.dtype]) -> bool:
    """Whether the shape of the operator's output depends on values. `indices`: the dtypes of what `index` picks by."""
    if torch.Tag.dynamic_output_shape not in getattr(func, "tags", ()):
        return False
    return name_of(func) != "index" or any(dtype in (torch.bool, torch.uint8) for dtype in indices)


def tensors_in(*trees: Any) -> list[Tensor]:
    """All tensors in nested arguments or results, in order."""
    return [x for x in leaves(trees) if isinstance(x, Tensor)]


def bound(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call, by name."""
    return {**{a.name: x for a, x in zip(schema_of(func).arguments, args, strict=False)}, **kwargs}


def is_written(argument: Any) -> bool:
    """Whether an operator writes into that argument of its schema."""
    return argument.alias_info is not None and argument.alias_info.is_write


def viewed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The argument that the outputs of a view operator are views of."""
    name = next(a.name for a in schema_of(func).arguments if a.alias_info)
    return bound(func, args, kwargs)[name]  # type: ignore[no-any-return]


def is_random(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call draws random numbers. Dropout that is switched off does not."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    named = {a.name: a.default_value for a in schema_of(func).arguments if a.has_default_value()}
    named |= bound(func, args, kwargs)
    off = [named.get("train", True), named.get("training", True), named.get("p", 1), named.get("dropout_p", 1)]
    return all(off) and named.get("dropout", 1) != 0


def pure_form(func: Any) -> Any:
    """The operator that returns what `func` writes: `add` for `add_`, `add.Tensor` for `add.out`; None without one."""
    schema = schema_of(func)
    writes = {a.name for a in schema.arguments if is_written(a)} if _is_out(func) else set()
    wanted = [(a.name, str(a.type)) for a in schema.arguments if a.name not in writes]
    name = name_of(func) if _is_out(func) else name_of(func).removesuffix("_")
    for packet in (getattr(_ATEN, name, None), getattr(_ATEN, f"{name_of(func)}_functional", None)):
        for overload in packet.overloads() if packet is not None else ():
            pure = getattr(packet, overload)
            present = [(a.name, str(a.type)) for a in schema_of(pure).arguments]
            if present == wanted and not schema_of(pure).is_mutable:
                return pure
    return None


def _is_out(func: Any) -> bool:
    """Whether the operator writes its result into arguments (`out=`)."""
    return torch.Tag.out in func.tags
