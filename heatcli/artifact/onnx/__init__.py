"""ONNX: a graph runs node by node, by torch calls only, so recording them yields its ATen operators."""
