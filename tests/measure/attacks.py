"""What malicious and damaged archives come to, as Markdown: all of `malice.attacks`, and copies damaged at random.

python tests/measure/attacks.py [DAMAGED] [COMMANDS]

Each archive is loaded in this process, and one of every so many by `heatcli inspect` and `heatcli explain`, too
(COMMANDS of them, by default 12; none for 0). A damaged copy that loads is explained, and its output compared.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from malice import EXAMPLE, MODULE, WRITTEN, Attack, Small, attacks, damaged, honest, in_folder

import heatcli
from heatcli.errors import HeatcliError

COLUMNS = (
    "refused in one line",
    "left out, answers right",
    "another answer",
    "ran, wrote or imported",
    "internal errors",
)


def outcome(path: Path, attack: Attack) -> str:
    """The column that an archive belongs in."""
    path.write_bytes(attack.content)
    try:
        model = heatcli.load(path, size=8, channels=3)
        outputs = heatcli.explain(model, EXAMPLE, "gradient", target=0).outputs
        found = COLUMNS[1] if torch.allclose(outputs, Small().eval()(EXAMPLE), atol=1e-6) else COLUMNS[2]
    except HeatcliError as error:
        found = COLUMNS[0] if "\n" not in str(error) else COLUMNS[4]
    except Exception as error:
        print(f"{attack.kind}, {attack.name}: {error!r}", file=sys.stderr)
        found = COLUMNS[4]
    if Path(WRITTEN).exists() or MODULE in sys.modules:
        print(f"{attack.kind}, {attack.name}: ran", file=sys.stderr)
        Path(WRITTEN).unlink(missing_ok=True)
        found = COLUMNS[3]
    return found


def command_outcome(attack: Attack, command: list[str]) -> str:
    """Likewise, of a command as a process of its own."""
    Path("m.pt").write_bytes(attack.content)
    ran = subprocess.run([sys.executable, "-m", "heatcli", *command], capture_output=True, text=True, check=False)
    if Path(WRITTEN).exists():
        Path(WRITTEN).unlink()
        return COLUMNS[3]
    return COLUMNS[0] if ran.returncode == 3 and ran.stderr.count("\n") == 1 else COLUMNS[4]


def main() -> None:
    """Try them all and print the table."""
    warnings.simplefilter("ignore")
    copies, commands = (int(sys.argv[i]) if len(sys.argv) > i else n for i, n in ((1, 2000), (2, 12)))
    good, counts = honest(), Counter[tuple[str, str]]()
    picture = Path(__file__).parents[2] / "samples" / "wolf-on-snow.png"
    os.environ["PYTHONPATH"] = os.pathsep.join(str(Path(p).absolute()) for p in sys.path if p)
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        sys.path.insert(0, name)
        in_folder(Path(name))
        tried = list(attacks(good))
        for attack in tried:
            counts[attack.kind, outcome(Path("m.pt"), attack)] += 1
        for format, content in good.items():
            for seed in range(copies):
                attack = Attack(f"damaged, {format}", str(seed), damaged(content, random.Random(seed)))
                counts[attack.kind, outcome(Path("m.pt"), attack)] += 1
        refused = [attack for attack in tried if not attack.harmless]
        for attack in refused[:: max(len(refused) // commands, 1)] if commands else []:
            for command in (["inspect", "m.pt"], ["explain", str(picture), "--model", "m.pt", "--size", "8"]):
                counts[f"`heatcli {command[0]}`", command_outcome(attack, command)] += 1
        os.chdir(Path(__file__).parent)
    print("| class | tried | " + " | ".join(COLUMNS) + " |\n|---|" + "--:|" * (len(COLUMNS) + 1))
    for kind in dict.fromkeys(kind for kind, _ in counts):
        numbers = [counts[kind, column] for column in COLUMNS]
        print(f"| {kind} | {sum(numbers)} | " + " | ".join(map(str, numbers)) + " |")


if __name__ == "__main__":
    main()
