"""What an export of Ultralytics says of itself, as the text of a sidecar: size, letterbox, task, names."""

from __future__ import annotations

import ast
from collections.abc import Mapping

import msgspec

_KINDS = {"detect": "detections", "classify": "classes"}


def sidecar(said: Mapping[str, str]) -> str:
    """The sidecar of the metadata `said` (`task`, `imgsz`, `names`); "" if Ultralytics did not write the metadata."""
    kind = _KINDS.get(said.get("task", ""))
    if kind is None or "imgsz" not in said:
        return ""
    try:
        height, width = (int(side) for side in ast.literal_eval(said["imgsz"]))
        names = ast.literal_eval(said.get("names", "{}"))
        listed = [str(names[i]) for i in range(len(names))]
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError):
        return ""
    resize = "letterbox" if kind == "detections" else "crop"
    labels = ", ".join(msgspec.json.encode(name).decode() for name in listed)  # a JSON string is one of TOML's
    return (
        f'[input]\nsize = [{height}, {width}]\nresize = "{resize}"\n'
        f'[output]\nkind = "{kind}"\n[labels]\nnames = [{labels}]\n'
    )
