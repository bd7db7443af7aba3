"""The same answer on an accelerator as on the CPU. Skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import SAMPLES, Cli
from networks import CORE, NETWORKS, images, network, save

import heatcli

DEVICES = [
    pytest.param(name, marks=pytest.mark.skipif(not getattr(torch, name).is_available(), reason=f"no {name} here"))
    for name in ("cuda", "mps")
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", CORE)
@pytest.mark.parametrize("name", NETWORKS)
def test_an_accelerator_gives_the_cpus_answer(tmp_path: Path, name: str, method: str, device: str) -> None:
    path = save(network(name), tmp_path, "scripted")
    here, there = (heatcli.explain(heatcli.load(path, d, size=16), images(2), method) for d in ("cpu", device))
    assert there.relevance.device.type == device
    scale = float(here.relevance.abs().max())
    assert torch.allclose(there.relevance.cpu(), here.relevance, rtol=1e-3, atol=1e-3 * scale)
    assert torch.allclose(there.ledger.output.cpu(), here.ledger.output, rtol=1e-3)
    if here.method.conserves:
        assert float(there.ledger.relative_error.max()) < 1e-3


@pytest.mark.parametrize("device", DEVICES)
def test_the_command_finds_it(cli: Cli, tmp_path: Path, device: str) -> None:
    assert heatcli.load(device="auto").device.type == device
    ran = cli("explain", SAMPLES / "wolf-on-snow.png", "--device", "auto", "--out", tmp_path)
    assert ran.status == 0, ran.err
