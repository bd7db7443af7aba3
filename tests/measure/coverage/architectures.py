"""The architectures of the coverage table: name → (family, input size). All with random weights."""

from __future__ import annotations

from typing import Any

TORCHVISION: dict[str, int] = {
    "alexnet": 224, "vgg11": 224, "vgg16_bn": 224, "resnet18": 64, "resnet50": 64, "resnext50_32x4d": 64,
    "wide_resnet50_2": 64, "densenet121": 64, "inception_v3": 96, "googlenet": 64, "squeezenet1_1": 64,
    "mobilenet_v2": 64, "mobilenet_v3_small": 64, "mobilenet_v3_large": 64, "shufflenet_v2_x1_0": 64,
    "mnasnet1_0": 64, "efficientnet_b0": 64, "efficientnet_v2_s": 64, "regnet_x_400mf": 64, "regnet_y_400mf": 64,
    "convnext_tiny": 64,
}  # fmt: skip

TIMM: dict[str, int] = {
    "dpn48b": 64, "dla34": 64, "res2net50_26w_4s": 64, "hrnet_w18_small": 64, "dm_nfnet_f0": 64, "nf_resnet50": 64,
    "ghostnet_100": 64, "rexnet_100": 64, "tresnet_m": 64, "skresnet18": 64, "cspdarknet53": 64, "cspresnet50": 64,
    "repvgg_a0": 64, "xception41": 96, "selecsls42b": 64, "mixnet_s": 64, "efficientnet_lite0": 64, "fbnetc_100": 64,
    "fbnetv3_b": 64, "ese_vovnet19b_dw": 64, "legacy_senet154": 64, "legacy_seresnet18": 64, "resnest14d": 64,
    "hardcorenas_a": 64, "convmixer_768_32": 64, "inception_resnet_v2": 96, "inception_v4": 96, "lcnet_050": 64,
    "tinynet_e": 64, "mobileone_s0": 64, "convnextv2_atto": 64, "resnetv2_50": 64, "gernet_s": 64, "regnetz_b16": 64,
    "edgenext_xx_small": 64, "mobilevit_xxs": 64, "poolformer_s12": 64, "hgnet_tiny": 64,
}  # fmt: skip

TRANSFORMERS: dict[str, int] = {"torchvision:vit_b_16": 224, "torchvision:swin_t": 64}


def all_architectures() -> dict[str, int]:
    """Every architecture as `library:name` → input size."""
    return {
        **{f"torchvision:{name}": size for name, size in TORCHVISION.items()},
        **{f"timm:{name}": size for name, size in TIMM.items()},
        **TRANSFORMERS,
    }


def build(architecture: str, size: int) -> Any:
    """The eager module, random weights (seed 0). Raises what its library raises."""
    import torch

    library, _, name = architecture.partition(":")
    torch.manual_seed(0)
    if library == "timm":
        import timm

        fixed = {"img_size": size} if name.startswith(("vit", "swin")) else {}
        return timm.create_model(name, pretrained=False, **fixed)
    import torchvision

    return getattr(torchvision.models, name)(weights=None)
