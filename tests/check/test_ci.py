"""What `.ci` runs exists, flags and names included."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

LINES = [
    line
    for file in ("run", "nightly")
    for line in (ROOT / ".ci" / file).read_text(encoding="utf-8").splitlines()
    if line.startswith("python tests/measure/")
]
PARSED = """
import json, runpy, sys
found = runpy.run_path(sys.argv[1])
options = vars(found["parsed"](json.loads(sys.argv[2])))
assert set(options.get("names", [])) <= set(found["classes"]() if "classes" in found else [])
assert set(found.get("MANY", [])) <= set(found["classes"]() if "classes" in found else [])
"""


@pytest.mark.parametrize("line", LINES)
def test_the_scripts_take_the_flags(line: str) -> None:
    _, script, *arguments = shlex.split(line)
    assert (ROOT / script).exists()
    if script.endswith("attacks.py"):  # takes numbers
        assert not arguments
        return
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [text.replace("$(nproc)", "2") for text in arguments if text != "&"]
    command = [sys.executable, "-W", "ignore", "-c", PARSED, script, json.dumps(arguments)]
    subprocess.run(command, cwd=ROOT, check=True, env=environment)


def test_slow_tests_and_scripts_are_run() -> None:
    nightly, run = ((ROOT / ".ci" / name).read_text(encoding="utf-8") for name in ("nightly", "run"))
    assert "\npytest -m slow\n" in nightly
    assert "\npip install '.[ray]'\npytest -m slow tests/run/test_cluster.py\n" in run
    assert len(LINES) > 4
