"""Where the embedded model is."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def default_model() -> Path:
    """The embedded model: in the installed package, or in `models/` of a checkout."""
    packaged = Path(str(resources.files("heatcli") / "models" / "animals.pt"))
    return packaged if packaged.is_file() else Path(__file__).parents[2] / "models" / "animals.pt"
