"""heatcli shows why a deployed image classifier said what it said.

model = heatcli.load("models/animals.pt")
batch = model.preprocess([Image.open(path)])
result = heatcli.explain(model, batch, method="lrp-eps")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heatcli.artifact.model import Model, load
    from heatcli.explanation import Explanation, explain
    from heatcli.ledger import Ledger
    from heatcli.methods.table import METHODS, Method

__version__ = "0.1.0"

_HOME = {
    "Explanation": "heatcli.explanation",
    "Ledger": "heatcli.ledger",
    "METHODS": "heatcli.methods.table",
    "Method": "heatcli.methods.table",
    "Model": "heatcli.artifact.model",
    "explain": "heatcli.explanation",
    "load": "heatcli.artifact.model",
}

__all__ = ["METHODS", "Explanation", "Ledger", "Method", "Model", "explain", "load"]


def __getattr__(name: str) -> Any:
    """Import on first use: `heatcli --help` needs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'heatcli' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
