"""ONNX: a graph is run node by node, by torch calls alone, so that watching them yields its ATen operators."""

from heatcli.artifact.onnx.load import load_onnx

__all__ = ["load_onnx"]
