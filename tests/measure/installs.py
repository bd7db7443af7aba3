"""Whether wheel and sdist install clean and explain a picture, on the oldest and newest Python and torch.

    python tests/measure/installs.py [--only 3.11]

Builds both from the checkout, then for each pair of Python and torch makes a new environment, installs, and runs
`heatcli explain` in an empty folder. Needs uv, the Pythons, and the package registries.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAIRS = (("3.11", "torch==2.13.*"), ("3.12", "torch==2.13.*"), ("3.13", "torch"))  # oldest, between, newest


def ran(*command: str | Path, folder: Path) -> str:
    """What a command writes to stdout. Raises `RuntimeError` with its last words if it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {' / '.join(done.stderr.strip().splitlines()[-3:])[:400]}")
    return done.stdout


def built(folder: Path) -> list[Path]:
    """The wheel and the sdist."""
    ran("uv", "build", "--quiet", "--out-dir", folder, ROOT, folder=folder)
    return [next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))]


def tried(package: Path, python: str, torch: str, folder: Path) -> str:
    """Install `package` beside that torch and explain a picture: the versions that ran."""
    ran("uv", "venv", "--quiet", "--python", python, "env", folder=folder)
    run = folder / "env" / "bin" / "python"
    ran("uv", "pip", "install", "--quiet", "--python", run, package, torch, folder=folder)
    picture = shutil.copy(ROOT / "samples" / "wolf-on-snow.png", folder)
    ran(run, "-m", "heatcli", "explain", Path(picture).name, "--out", "out", folder=folder)
    report = json.loads((folder / "out" / "wolf-on-snow.lrp-eps.json").read_text(encoding="utf-8"))
    label = report["target"]["label"]
    versions = "import sys, torch; print(sys.version.split()[0], torch.__version__)"
    return f"{ran(run, '-c', versions, folder=folder).strip()} {label}"


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a version of Python")
    return parser.parse_args(arguments)


def main() -> None:
    """The command."""
    only = parsed().only
    failed = False
    with tempfile.TemporaryDirectory() as made:
        for package in built(Path(made)):
            for python, torch in PAIRS:
                if only not in python:
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    try:
                        found = tried(package, python, torch, Path(folder))
                    except RuntimeError as error:
                        failed, found = True, f"failed: {error}"
                print(f"{package.name} | {python} | {torch} | {found}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
