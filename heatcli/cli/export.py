"""`heatcli export`: the explanation as a model of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heatcli.cli import options, results, say, values


@options.loads("output", "with_passes", "without_passes", *(n for n in options.INPUT if n != "device"), device="cpu")
def command(
    model: Annotated[Path | None, typer.Argument(help="The artifact; default: the embedded animals model.")] = None,
    output_file: Annotated[
        Path | None,
        typer.Option(
            "-o", metavar="FILE", help="The explained model: .onnx, .pt2 or .pt (TorchScript). Default: explained.onnx."
        ),
    ] = None,
    method: Annotated[str, typer.Option(help="See `heatcli methods`.")] = "lrp-eps",
    param: options.Param = None,
    rule: options.Rule = None,
    composite: options.Composite = None,
    layer: options.Layer = None,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="none|zero|black|blur[:SIGMA]|mean[:FILE]|IMAGE", help="What images are compared with."),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            metavar="top|INDEX|LABEL|A-B|input",
            help="The score that is explained. input: the model takes the class as an input.",
        ),
    ] = "top",
    outputs: Annotated[
        str,
        typer.Option(
            metavar="NAME,…",
            help="Which outputs the model gets, of logits, heatmap, relevance, biases, bias_elements, ledger.",
        ),
    ] = "logits,heatmap,relevance,biases,ledger",
    preprocess: Annotated[
        bool, typer.Option("--preprocess", help="Take pictures as uint8 [N, H, W, C], of the model's size.")
    ] = False,
    u8: Annotated[
        bool, typer.Option("--u8", help="Return the heatmap as bytes, too, with a scale for each image.")
    ] = False,
    web: Annotated[
        bool, typer.Option("--web", help="Write a page that runs the explained model in the browser; -o is a folder.")
    ] = False,
    web_runtime: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The npm package onnxruntime-web. Default: where npm install put it."),
    ] = None,
    json: options.Json = False,
    *,
    load: options.Load,
) -> None:
    """Write a model that explains itself: it returns its own output, a heatmap, biases and the ledger."""
    import msgspec

    from heatcli.cli.asked import methods_of, rules_of
    from heatcli.errors import UsageError
    from heatcli.export.job import ExportRequest, export
    from heatcli.export.measure import measured
    from heatcli.export.web import MODEL, export_page
    from heatcli.rules.parameters import listed

    if web_runtime is not None and not web:
        raise UsageError("--web-runtime is for the page that --web writes; give both")
    (asked,) = methods_of([method], values.parameters(param), layer)
    path = output_file or Path("page" if web else "explained.onnx")
    request = ExportRequest(
        path=path, method=asked, rules=tuple(rules_of(composite, rule)), target=target, baseline=baseline,
        outputs=tuple(listed(outputs)), preprocess=preprocess, u8=u8,
    )  # fmt: skip
    loaded = load(model)
    note = export_page(loaded, request, web_runtime) if web else export(loaded, request)
    costs = measured(path / MODEL if web else path, loaded, note)
    if json:
        results.print_json({**msgspec.to_builtins(note), "costs": costs})
    else:
        say.line(
            f"wrote {path}: {costs['bytes'] / 1e6:.3g} MB beside {costs['plain_bytes'] / 1e6:.3g} MB; "
            f"{costs['seconds'] * 1e3:.3g} ms an image beside {costs['plain_seconds'] * 1e3:.3g} ms "
            f"({costs['runtime']}, one thread)"
        )
    if web:
        say.line(f"serve it, such as with python -m http.server -d {path}")
