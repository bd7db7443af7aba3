"""Take the paths of the machine that trained out of exported files: they hold no weights and would differ each time."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch

_WRITER_OWN = {"version", "byteorder", ".data/serialization_id", ".format_version", ".storage_alignment"}


def torchscript(path: Path) -> None:
    """Rewrite a TorchScript file without its ``.debug_pkl`` records, which tell the source lines of each operator."""
    reader = torch._C.PyTorchFileReader(str(path))
    names = [name for name in reader.get_all_records() if name not in _WRITER_OWN and not name.endswith(".debug_pkl")]
    records = {name: reader.get_record(name) for name in names}
    del reader
    writer = torch._C.PyTorchFileWriter(str(path))
    for name, record in records.items():
        writer.write_record(name, record, len(record))
    writer.write_end_of_file()


def onnx_file(path: Path) -> None:
    """Rewrite an ONNX file without the exporter's notes (stack traces and names of PyTorch nodes)."""
    model = onnx.load(str(path))
    graph = model.graph
    for item in [model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info]:
        del item.metadata_props[:]
        item.doc_string = ""
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
