"""The workflow, the hook and the spec of the manual's page on checks, as written there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from conftest import MODELS, ROOT, SAMPLES

PAGE = (ROOT / "heatcli" / "help" / "checks.md").read_text(encoding="utf-8")


def block(language: str, first: str) -> str:
    """The page's code block that begins with the line `first`."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    found = [text for text in blocks if text.startswith(first)]
    assert len(found) == 1
    return found[0]


WORKFLOW: Any = yaml.safe_load(block("yaml", "# .github/workflows/heatmaps.yml"))
HOOKS: Any = yaml.safe_load(block("yaml", "# .pre-commit-config.yaml"))


@pytest.fixture
def repository(tmp_path: Path, on_path: dict[str, str]) -> tuple[Path, dict[str, str]]:
    """A copy of what the commands name, and an environment in which `heatcli` is a command."""
    (tmp_path / "repo" / "models").mkdir(parents=True)
    for file in MODELS.glob("animals*"):
        shutil.copy(file, tmp_path / "repo" / "models")
    shutil.copytree(SAMPLES, tmp_path / "repo" / "samples")
    (tmp_path / "repo" / "samples" / "heatcheck.toml").write_text(
        block("toml", "# samples/heatcheck.toml"), encoding="utf-8"
    )
    return tmp_path / "repo", on_path


def test_the_spec_is_the_repositorys() -> None:
    assert block("toml", "# samples/heatcheck.toml") == (SAMPLES / "heatcheck.toml").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_workflow_passes_and_keeps_a_report(repository: tuple[Path, dict[str, str]]) -> None:
    """Its steps but the installation, run as it writes them; then with the model that must fail."""
    folder, environment = repository
    steps = WORKFLOW["jobs"]["check"]["steps"]
    runs = [step["run"] for step in steps if "run" in step]
    assert runs[0] == "pip install ."

    def done(run: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(run, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    for ran in map(done, runs[1:]):
        assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr
    kept = [step["with"]["path"] for step in steps if step.get("uses", "").startswith("actions/upload-artifact")]
    assert ElementTree.parse(folder / kept[0]).getroot().get("failures") == "0"
    shutil.copy(folder / "models" / "animals-shortcut.pt", folder / "models" / "animals.pt")
    ran = done(runs[1])
    assert ran.returncode == 1
    assert "::error file=samples/wolf-on-grass.png,title=heatcli prediction::" in ran.stdout
    assert "FAILED background: all images: share that keeps its class" in ran.stdout


@pytest.mark.slow
def test_the_hook_runs_when_the_model_changes(repository: tuple[Path, dict[str, str]]) -> None:
    """With pre-commit itself: a changed spec runs it and passes, the shortcut model is not committed."""
    pytest.importorskip("pre_commit")
    folder, environment = repository
    (folder / ".pre-commit-config.yaml").write_text(yaml.safe_dump(HOOKS), encoding="utf-8")

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    run("git", "init", "-q")
    run("git", "add", ".pre-commit-config.yaml", "models/animals.toml")
    skipped = run(sys.executable, "-m", "pre_commit", "run")
    assert "no files to check" in skipped.stdout
    run("git", "add", "-A")
    passed = run(sys.executable, "-m", "pre_commit", "run")
    assert passed.returncode == 0, passed.stdout
    assert "Passed" in passed.stdout
    shutil.copy(folder / "models" / "animals-shortcut.pt", folder / "models" / "animals.pt")
    run("git", "add", "-A")
    refused = run(sys.executable, "-m", "pre_commit", "run")
    assert refused.returncode == 1
    assert "FAILED background" in refused.stdout
