"""`heatcli methods`: the catalogue."""

from __future__ import annotations

import sys

from heatcli.cli import options


def command(json: options.Json = False, debug: options.Debug = False) -> None:
    """List the methods: what they are, where they come from, what they take, whether they conserve."""
    from heatcli.methods.table import METHODS

    rows = [
        {
            "name": m.name,
            "summary": m.summary,
            "source": m.source,
            "conserves": m.conserves,
            "baseline": m.baseline,
            "parameters": m.parameters,
            "rules": {kind: repr(rule) for kind, rule in m.rules.items()},
        }
        for m in METHODS.values()
    ]
    if json:
        import msgspec

        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(rows)) + b"\n")
        return
    for m in METHODS.values():
        parameters = ", ".join(f"{k}={v:g}" for k, v in m.parameters.items()) or "none"
        print(f"{m.name}\n  {m.summary}\n  {m.source}")
        conserves, baseline = "yes" if m.conserves else "no", m.baseline or "refused"
        print(f"  conserves: {conserves}; baseline: {baseline}; parameters: {parameters}")
