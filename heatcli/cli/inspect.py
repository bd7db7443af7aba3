"""`heatcli inspect`: what an artifact contains."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from heatcli.cli import options, results, say


@options.loads(*(name for name in options.INPUT if name != "device"), device="cpu")
def command(
    model: Annotated[Path | None, typer.Argument(help="The artifact; default: the embedded animals model.")] = None,
    layers: Annotated[bool, typer.Option("--layers", help="List the layers, by the names that --layer takes.")] = False,
    json: options.Json = False,
    write_sidecar: Annotated[
        bool, typer.Option("--write-sidecar", help="Draft the sidecar NAME.toml beside the model.")
    ] = False,
    *,
    load: options.Load,
) -> None:
    """Show what an artifact contains: its input, its outputs, its operators, its biases, its preprocessing."""
    from heatcli.errors import MissingError, ShapeError, UsageError
    from heatcli.model.inspection import draft_sidecar, inspect
    from heatcli.model.inspection import layers as layers_of
    from heatcli.model.named import is_named

    try:
        loaded = load(model)
    except MissingError as error:
        if error.opened is None:
            raise
        format, artifact = error.opened
        _unfinished(Path(model or ""), format, artifact, str(error), json)
        return
    if layers:
        listed = layers_of(loaded)
        if json:
            sys.stdout.buffer.write(results.as_json(listed))
        else:
            _print_layers(listed)
        return
    if write_sidecar:
        if is_named(loaded.path):
            raise UsageError(f"{loaded.path}: takes no sidecar; its weights say how pictures go in, and their labels")
        _write(loaded.path.with_suffix(".toml"), draft_sidecar(loaded))
        return
    try:
        found = inspect(loaded)
    except (MissingError, ShapeError) as error:
        if isinstance(error, ShapeError) and loaded.pictures.sized:
            raise
        _unfinished(loaded.path, loaded.format, loaded.artifact, str(error), json)
        return
    if json:
        sys.stdout.buffer.write(results.as_json(found))
    else:
        _print(found)


def _unfinished(path: Path, format: Any, artifact: Any, missing: str, json: bool) -> None:
    """Print what is known of an artifact that cannot run yet, and the value that is missing."""
    from heatcli.model.inspection import outline

    found = outline(path, format, artifact, missing)
    if json:
        sys.stdout.buffer.write(results.as_json(found))
        return
    print(f"{path}: {format}")
    for one in found["inputs"]:
        shape = "any shape" if one["shape"] is None else "×".join("N" if d is None else str(d) for d in one["shape"])
        print(f"input {one['name']}: {shape}, {one['dtype']}")
    print(f"missing: {missing.removeprefix(f'{path}: ')}")


def _write(path: Path, text: str) -> None:
    """Write the sidecar. Raises `UsageError` if there is one."""
    from heatcli.errors import UsageError
    from heatcli.system.files import write_atomically

    if path.exists():
        raise UsageError(f"{path}: is there already; correct it, or move it away first")
    write_atomically(path, text.encode())
    say.line(f"wrote {path}; correct what it does not know")


def _print(found: dict[str, Any]) -> None:
    """Print what an artifact contains."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    dims = "×".join("N" if d is None else str(d) for d in found["input"]["shape"])
    output = found["output"]
    sized = "" if found["input"]["sized"] else " (tried: nothing says the size)"
    given = f"{found['input']['kind']} {found['input']['axes']} {dims}{sized}"
    console.print(f"[bold]{found['path']}[/]: {found['format']}, input {given}, {found['parameters']:,} parameters")
    console.print(f"sha256 {found['sha256']}", highlight=False)
    for one in found["outputs"]:
        name = f" {one['name']}" if one["name"] else ""
        meaning = f": {_output(output)}" if one["explained"] else "; --head explains it"
        line = f"output {one['number']}{name} {one['shape']}, {one['dtype']}{meaning}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"preprocessing: {_preprocessing(found['input'])}", markup=False, highlight=False, soft_wrap=True)
    console.print(_verified(found["verified"]), markup=False, highlight=False, soft_wrap=True)
    operators = Table("kind", "operator", "count", "rule", title="operators")
    for row in found["operators"]:
        operators.add_row(row["kind"], row["operator"], str(row["count"]), "yes" if row["rule"] else "no: booked")
    console.print(operators)
    biases = Table("bias", "operator", "size", title="biases")
    for row in found["biases"]:
        biases.add_row(row["name"], row["operator"], str(row["size"]))
    console.print(biases)


def _print_layers(listed: list[dict[str, Any]]) -> None:
    """Print a layer per line, for grep: name, module or node, shape, and `map` if CAM methods can use it."""
    for row in listed:
        shape = "×".join(map(str, row["shape"])) or "1"
        print(f"{row['name']}\t{row['module'] or row['node'] or '-'}\t{shape}\t{'map' if row['maps'] else '-'}")


def _output(output: dict[str, Any]) -> str:
    """The explained output in words."""
    if output["unclear"]:
        return str(output["unclear"])
    kind, classes = output["kind"], f"{output['classes']:,} class{'es' if output['classes'] != 1 else ''}"
    several = output["ends"] == "sigmoid" and output["classes"] > 1
    sequence = "several labels at each position" if several else "a class at each position"
    words = {"classes": "", "labels": "several labels", "sequence": sequence}
    kind = f"{kind} of several labels" if several and kind == "segmentation" else words.get(kind, kind)
    what = ", ".join(filter(None, [kind, "" if kind and output["classes"] == 1 else classes]))
    axis = "" if output["axis"] is None else f" on axis {output['axis']} ({output['why']})"
    if output["before"]:
        axis += f", before {', '.join(output['before'])}"
    ends = f", ends in {output['ends']}" + (" (logits are explained)" if output["final"] else "")
    return str(what) + axis + (ends if output["ends"] else "") + ", explained"


def _verified(found: dict[str, Any] | None) -> str:
    """The comparison of the graph with the artifact's own runtime, in words."""
    if found is None:
        return "not verified: its own runtime cannot run it here"
    how = f"outputs agree to {found['error']:.1g}" if found["agrees"] else f"outputs are {found['error']:.1g} off"
    what = "verified" if found["agrees"] else "UNVERIFIED"
    took = f"{found['seconds']:.2f} s" if found["seconds"] else "known from before"
    return f"{what} against {found['against']}: {how} ({took})"


def _preprocessing(spec: dict[str, Any]) -> str:
    """The preprocessing in words, and where it was read from."""
    order = f", {spec['order']}" if spec["order"] != "rgb" else ""
    how = f"resize {spec['resize']}, mean {_short(spec['mean'])}, std {_short(spec['std'])}{order}"
    return f"{how}; {spec['told_by'] or 'nothing says so'}"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float | int) else ", ".join(f"{v:g}" for v in value)
