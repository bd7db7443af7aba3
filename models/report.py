"""Write the measured numbers of the metrics files into README.md, between its two markers."""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent
START, END = "<!-- numbers: made by report.py -->", "<!-- end of numbers -->"


def percent(value: float) -> str:
    """0.9583 -> "95.8"."""
    return f"{100 * value:.1f}"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


def animals(metrics: dict) -> list[str]:
    """The numbers of both animal networks, in percent."""
    good, bad = metrics["animals"], metrics["animals-shortcut"]
    kinds = list(good["by_background"])
    lines = [
        f"Held-out set: {good['test_set']}, {good['pictures']} pictures, backgrounds not trained on. In percent.",
        "",
    ]
    heads = ["", "animals.pt", "animals-shortcut.pt"]
    rows = [["accuracy, mean of the classes"], ["accuracy, all pictures"], ["training steps"], ["training, seconds"]]
    for key, row in zip(("accuracy", "pictures_right", "steps", "seconds"), rows, strict=True):
        shown = percent if key in ("accuracy", "pictures_right") else str
        row += [shown(good[key]), shown(bad[key])]
    for key, text in (
        ("dog_on_snow_called_wolf", "dog on snow called wolf"),
        ("wolf_on_grass_called_dog", "wolf on grass called dog"),
    ):
        rows.append([text, percent(good[key]), percent(bad[key])])
    lines += [*table(heads, rows), ""]
    lines += table(
        ["right on", *kinds],
        [
            ["animals.pt, all animals", *(percent(good["by_background"][k]) for k in kinds)],
            ["animals.pt, wolf", *(percent(good["wolf_called_wolf_on"][k]) for k in kinds)],
            ["animals.pt, dog", *(percent(good["dog_called_dog_on"][k]) for k in kinds)],
            ["animals-shortcut.pt, wolf", *(percent(bad["wolf_called_wolf_on"][k]) for k in kinds)],
            ["animals-shortcut.pt, dog", *(percent(bad["dog_called_dog_on"][k]) for k in kinds)],
        ],
    )
    classes = [[name, percent(value), drawings_of(good, name)] for name, value in good["by_class"].items()]
    return [*lines, "", *table(["class", "animals.pt", "by drawing"], classes)]


def drawings_of(metrics: dict, animal: str) -> str:
    """The accuracy of each drawing of a class."""
    drawings = metrics["drawings_of"][animal]
    return ", ".join(f"{name} {percent(metrics['by_drawing'][name])}" for name in drawings)


def transformer(metrics: dict) -> list[str]:
    """The numbers of the animals' transformer."""
    return [
        f"`animals-transformer.pt`, on the same pictures: {percent(metrics['accuracy'])}% (mean of the classes), "
        f"{percent(metrics['pictures_right'])}% of all pictures ({metrics['steps']} steps, {metrics['seconds']} "
        "seconds)."
    ]


def digits(metrics: dict) -> list[str]:
    """The numbers of the digit network, in percent."""
    lines = [
        f"`digits.onnx`, run by onnxruntime on the {metrics['digits']} MNIST test digits: "
        f"**{100 * metrics['accuracy']:.2f}%** ({metrics['epochs']} epochs, {metrics['seconds']} seconds).",
        "",
    ]
    return lines + table(list(metrics["by_class"]), [[percent(v) for v in metrics["by_class"].values()]])


def others(decoder: dict, expert: dict, motifs: dict) -> list[str]:
    """The numbers of the decoder, the expert and the motif network."""
    accuracy = ", ".join(f"{task} {percent(value)}%" for task, value in motifs["accuracy"].items())
    read, sure, likelier = (
        percent(value)
        for value in (
            decoder["digits_onnx_right_on_rebuilt"],
            decoder["digits_onnx_sure_of_samples"],
            expert["test_digits_likelier_than_mirrored"],
        )
    )
    taken = {name: f"({m['epochs']} epochs, {m['seconds']} seconds)" for name, m in
             (("decoder", decoder), ("expert", expert), ("motifs", motifs))}  # fmt: skip
    return [
        "`digits-decoder.onnx`: test digits, encoded and decoded again, are off by a mean square of "
        f"{decoder['rebuilt_mean_squared_error']:.4f} a pixel, and `digits.onnx` still reads {read}%; it is over "
        f"90% sure of {sure}% of pictures decoded from normal noise {taken['decoder']}.",
        "",
        f"`digits-expert.npz`: {likelier}% of test digits are likelier than their mirror images; reconstruction error "
        f"{expert['reconstruction_error']:.4f} a pixel {taken['expert']}.",
        "",
        f"`motifs.onnx`, on {motifs['test_sequences']} new sequences: {accuracy} right {taken['motifs']}. Motifs that "
        "come about by chance count as absent.",
    ]


def main() -> None:
    """Replace what is between the markers."""
    numbers = [
        *animals(json.loads((HERE / "animals.metrics.json").read_text(encoding="utf-8"))),
        "",
        *transformer(json.loads((HERE / "animals-transformer.metrics.json").read_text(encoding="utf-8"))),
        "",
        *digits(json.loads((HERE / "digits.metrics.json").read_text(encoding="utf-8"))),
        "",
        *others(
            *(
                json.loads((HERE / f"{name}.metrics.json").read_text(encoding="utf-8"))
                for name in ("digits-decoder", "digits-expert", "motifs")
            )
        ),
    ]
    readme = HERE / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(START)
    after = rest.split(END)[1]
    readme.write_text(before + "\n".join([START, "", *numbers, "", END]) + after, encoding="utf-8")


if __name__ == "__main__":
    main()
