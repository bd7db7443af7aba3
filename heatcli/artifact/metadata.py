"""What exporters write of a network into its file, as the text of a sidecar: size, letterbox, task, names."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping, Sequence

import msgspec

_KINDS = {"detect": "detections", "classify": "classes"}


def sidecar(metadata: Mapping[str, str], counts: Collection[int] = ()) -> str:
    """The sidecar for `metadata`, "" if it says nothing. `counts`: how many classes the network may have.

    Ultralytics writes `task`, `imgsz` and `names`; PaddlePaddle's converters write a line for each name, `character`.
    """
    return _of_ultralytics(metadata) or _of_lines(metadata.get("character", ""), counts)


def _of_ultralytics(metadata: Mapping[str, str]) -> str:
    kind = _KINDS.get(metadata.get("task", ""))
    if kind is None or "imgsz" not in metadata:
        return ""
    try:
        height, width = (int(side) for side in ast.literal_eval(metadata["imgsz"]))
        names = ast.literal_eval(metadata.get("names", "{}"))
        listed = [str(names[i]) for i in range(len(names))]
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError):
        return ""
    resize = "letterbox" if kind == "detections" else "crop"
    return f'[input]\nsize = [{height}, {width}]\nresize = "{resize}"\n[output]\nkind = "{kind}"\n{_labels(listed)}'


def _of_lines(text: str, counts: Collection[int]) -> str:
    """The names of as many classes as the network may have; an alphabet without its blank is none."""
    names = text.splitlines()
    return _labels(names) if names and len(names) in counts and len({*names, ""}) == len(names) + 1 else ""


def _labels(names: Sequence[str]) -> str:
    quoted = ", ".join(msgspec.json.encode(name).decode() for name in names)  # a JSON string is one of TOML's
    return f"[labels]\nnames = [{quoted}]\n"
