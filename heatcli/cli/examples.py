"""Examples of each command, shown below its `--help`. The first one is what a new user needs."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "explain": (
        "heatcli explain photo.jpg",
        "heatcli explain photos/ --model net.onnx --preset imagenet --labels labels.txt --out heatmaps",
        "heatcli explain photo.jpg --method lrp-eps --method grad-cam --baseline blur -o both.png",
    ),
    "export": (
        "heatcli export net.onnx -o explained.onnx",
        "heatcli export net.pt --method lrp-epsilon-plus --size 224 --outputs logits,heatmap -o explained.pt2",
        "heatcli export --preprocess --web -o page/",
    ),
    "show": (
        "heatcli show heatmaps/photo.lrp-eps.json -o panel.pdf",
        "heatcli show heatmaps --figure grid --scale run -o grid.png",
        "heatcli show heatmaps/photo.lrp-eps.json --show",
    ),
    "gallery": (
        "heatcli gallery heatmaps",
        "heatcli gallery heatmaps --expected labels.csv -o report.html",
        "heatcli gallery heatmaps --against heatmaps-yesterday",
    ),
    "discover": (
        "heatcli discover heatmaps",
        "heatcli discover net.onnx photos/ --method lrp-eps",
        "heatcli discover heatmaps --mask-out wolf/0 --model net.onnx",
    ),
    "concepts": (
        "heatcli concepts photos/ --layer layer4",
        "heatcli concepts photos/ --model net.onnx --layer layer4 --below layer3 --channel 17",
        "heatcli concepts photos/ --target wolf --concept-names names.toml",
    ),
    "joint": (
        "heatcli joint a.png b.png --model faces.onnx --preset imagenet",
        "heatcli joint a.png b.png --model faces.onnx --preset imagenet --grid 12 --similarity dot",
        "heatcli joint a.png b.png --model faces.onnx --preset imagenet --method lrp-gamma --json",
    ),
    "methods": ("heatcli methods", "heatcli methods 'lrp-epsilon-*' grad-cam", "heatcli methods --json"),
    "inspect": (
        "heatcli inspect net.onnx",
        "heatcli inspect net.onnx --layers",
        "heatcli inspect net.onnx --preset imagenet --write-sidecar",
    ),
    "mean": (
        "heatcli mean train/ -o net.mean.npz --model net.onnx",
        "heatcli mean train/ --recursive -o net.mean.npz --model net.onnx --preset imagenet",
        "heatcli mean digits/ -o digits.mean.npz --model digits.pt --size 28",
    ),
    "bench": (
        "heatcli bench net.onnx",
        "heatcli bench net.onnx --methods lrp-eps,deeplift-rescale --batch-size 16",
        "heatcli bench net.pt --device cuda --json",
    ),
    "check": (
        "heatcli check net.onnx samples/",
        "heatcli check net.onnx samples/ --spec heatcheck.toml --junit checks.xml",
        "heatcli check net.onnx samples/ --methods lrp-eps@blur --html checks.html",
    ),
    "compare": (
        "heatcli compare yesterday.pt today.onnx samples/",
        "heatcli compare lrp-eps deeplift-rescale@blur samples/ --model net.onnx",
        "heatcli compare a.onnx b.onnx samples/ --most-difference 0.01 --html compare.html",
    ),
    "evaluate": (
        "heatcli evaluate net.onnx samples/",
        "heatcli evaluate net.onnx samples/ --methods lrp-eps,grad-cam --metric pixel-flipping --limit 50",
        "heatcli evaluate net.onnx samples/ --masks masks/ --metric inside-mask --html evaluation.html",
    ),
    "merge": (
        "heatcli merge shard-1 shard-2 -o index.jsonl",
        "heatcli merge heatmaps -o index.jsonl --index parquet",
        "heatcli merge run/* -o all.jsonl",
    ),
    "activations": (
        "heatcli activations photo.jpg --model net.onnx",
        "heatcli activations photo.jpg --model net.onnx --layer layer4 --by relevance",
        "heatcli activations photos/ --layer layer4 --channel 12 --top-images 9",
    ),
    "filters": (
        "heatcli filters net.onnx",
        "heatcli filters net.onnx --layer conv1",
        "heatcli filters net.onnx --top 64 --out kernels",
    ),
    "prototype": (
        "heatcli prototype net.onnx --target wolf",
        "heatcli prototype net.onnx --target all --steps 512 --jitter 4",
        "heatcli prototype digits.pt --target 8 --prior rbm:expert.npz --animate",
    ),
    "fit-expert": (
        "heatcli fit-expert digits/ --size 28 -o expert.npz",
        "heatcli fit-expert photos/ --patch 8 --channels 3 -o patches.npz",
        "heatcli fit-expert photos/ --patch 8 --channels 3 --hidden 512 --epochs 40 -o patches.npz",
    ),
    "config": ("heatcli config", "heatcli config explain", "heatcli config explain --json"),
    "help": ("heatcli help", "heatcli help choosing", "heatcli help settings"),
}
