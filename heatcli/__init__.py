"""heatcli shows why a deployed image classifier said what it said.

model = heatcli.load("models/animals.pt")  # or a torch.nn.Module: heatcli.load(module, example)
result = heatcli.explain(model, "photo.jpg", method="lrp-eps")  # or Pillow images, arrays, an input [N, C, H, W]
result.figure().save("photo.png")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from heatcli.version import __version__ as __version__

if TYPE_CHECKING:
    from heatcli.engine.ledger import Ledger
    from heatcli.errors import HeatcliError, ImageError, ModelError, UsageError
    from heatcli.explanation import Explanation, explain
    from heatcli.methods.table import METHODS, Method
    from heatcli.model.model import Model, load

_HOME = {
    "Explanation": "heatcli.explanation",
    "HeatcliError": "heatcli.errors",
    "ImageError": "heatcli.errors",
    "Ledger": "heatcli.engine.ledger",
    "METHODS": "heatcli.methods.table",
    "Method": "heatcli.methods.table",
    "Model": "heatcli.model.model",
    "ModelError": "heatcli.errors",
    "UsageError": "heatcli.errors",
    "explain": "heatcli.explanation",
    "load": "heatcli.model.model",
}

__all__ = [
    "METHODS", "Explanation", "HeatcliError", "ImageError", "Ledger", "Method", "Model", "ModelError", "UsageError",
    "explain", "load",
]  # fmt: skip


def __dir__() -> list[str]:
    """The interface: what is imported on first use is offered from the start."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


def __getattr__(name: str) -> Any:
    """Import on first use: `heatcli --help` needs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'heatcli' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
