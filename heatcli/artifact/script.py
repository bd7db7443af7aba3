"""Checks a TorchScript archive entry by entry before torch reads any of it. Its pickles: `script_pickle.py`.

An archive's code has Python's syntax, but only the small part that torch's printer writes: names, calls, literals and
statements, no operators. So no two parsers can read it differently, and every called name can be looked up.
"""

from __future__ import annotations

import collections
import functools
import re
from collections.abc import Collection, Iterator, Mapping

from heatcli.artifact.archive import Buffer, Refused
from heatcli.artifact.script_pickle import BLANKS, DEEPEST, MOST, NAMES, OBJECTS, check_pickle
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
_ATTRIBUTE = re.compile(r"^(?:class (\w+)\(|  (?:\w+ : |__annotations__\[.*\] = )(.+))", re.MULTILINE | re.ASCII)
# A script may switch gradients off, as torchvision's detectors do: whoever loads or runs one restores the switch.
_SWITCH = "torch.set_grad_enabled"
_METHOD = re.compile(r"^ *def (\w+)\(", re.MULTILINE | re.ASCII)


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
            check_pickle(f"{name}.pkl", bytes(kept[f"{name}.pkl"]), sizes)
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
        _check_attribute(_literal(text))
    bare = _TEXTS.sub("''", code)
    modules = {name.removeprefix("code/").removesuffix(".py").replace("/", ".") for name in sources}
    for chain in set(NAMES.findall(bare)):
        _check_names(BLANKS.sub("", chain), modules)
    depth = deepest = 0
    for bracket in re.findall(r"[()\[\]{}]", bare):
        depth += 1 if bracket in "([{" else -1
        deepest = max(deepest, depth)
    if max([deepest, *(len(indent) // 2 for indent in set(re.findall(r"^ *", bare, re.MULTILINE)))]) > DEEPEST:
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
                held += [BLANKS.sub("", chain) for chain in NAMES.findall(match[2]) if chain.startswith("__torch__")]
    level = {name for name in holds if name not in {inner for held in holds.values() for inner in held}}
    for _ in range(DEEPEST):
        level = {inner for name in level for inner in holds.get(name, ())}
        if not level:
            return
    raise Refused("holds classes that are nested too deeply; refused")


def _literal(text: str) -> str:
    """The value of a literal in TorchScript's code. Its escapes are Python's."""
    return text[1:-1].encode().decode("unicode_escape") if "\\" in text else text[1:-1]


def _check_names(chain: str, modules: Collection[str]) -> None:
    """Refuse forbidden calls in a chain `a.b.c`. The chain starts with a dot if it follows a call or an index."""
    if chain == _SWITCH:
        return
    root, *rest = chain.split(".")
    if root in ("torch", "ops"):
        called = ["aten", *rest] if root == "torch" else rest
        if len(called) != 2 or not permitted(*called):
            raise Refused(f"calls {chain[:80]}, which does more than compute tensors; refused")
        return
    if root == "__torch__":
        if OBJECTS.fullmatch(chain):
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
    """Whether an attribute is the name of a forbidden operator."""
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
        elif following in on_path or len(path) > DEEPEST:
            raise Refused("calls itself while it is loaded (__setstate__); refused")
        else:
            path.append(following)
            on_path.add(following)
    if costs.get("__setstate__", 0) > MOST:
        raise Refused("runs for too long while it is loaded (__setstate__); refused")
