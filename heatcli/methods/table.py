"""The catalogue of methods.

`heatcli methods`, the tests and the documentation read these records. A new method replaces entries of a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heatcli.errors import UsageError, unknown_name
from heatcli.methods.backward import BACKWARD
from heatcli.methods.cam import CAM
from heatcli.methods.difference import DIFFERENCE
from heatcli.methods.method import Method
from heatcli.methods.path import PATH
from heatcli.methods.perturbation import PERTURBATION
from heatcli.methods.smooth import SMOOTH
from heatcli.methods.superpixels import SUPERPIXELS
from heatcli.rules.parameters import Named

__all__ = ["DEFAULT", "DEFAULT_BASELINE", "METHODS", "Method", "method"]

DEFAULT = "lrp-eps"
"""The method of `explain` where none is named; why: tests/measure/experiments/DEFAULT.md."""

DEFAULT_BASELINE = "blur"
"""What the picture is compared with where neither a method nor a baseline is named; a named method has its own."""


def _by_name(*groups: tuple[Method, ...]) -> Mapping[str, Method]:
    """All methods by name. Raises `ValueError` if two have the same name."""
    by_name: dict[str, Method] = {}
    for each in (method for group in groups for method in group):
        if each.name in by_name:
            raise ValueError(f"two methods are called {each.name}")
        by_name[each.name] = each
    return by_name


METHODS: Mapping[str, Method] = _by_name(BACKWARD, CAM, PATH, SMOOTH, PERTURBATION, DIFFERENCE, SUPERPIXELS)


ELSEWHERE = {  # names that papers and other libraries have → ours
    "lrp": "lrp-eps", "lrp-epsilon": "lrp-eps", "epsilon": "lrp-eps", "epsilon-lrp": "lrp-eps",
    "lrp-gradient": "lrp-0", "z-plus": "lrp-z-plus", "zplus": "lrp-z-plus", "alpha-beta": "lrp-alpha-beta",
    "epsilon-plus": "lrp-epsilon-plus", "epsilon-plus-flat": "lrp-epsilon-plus-flat",
    "epsilon-gamma-box": "lrp-epsilon-gamma-box", "dtd": "deep-taylor",
    "attn-lrp": "attnlrp", "lxt": "attnlrp", "cplrp": "cp-lrp", "conservative-propagation": "cp-lrp",
    "lrp-all": "cp-lrp",
    "saliency": "gradient", "vanilla-gradient": "gradient", "grad": "gradient", "saliency-map": "gradient",
    "gradient-x-input": "input-x-gradient", "gradxinput": "input-x-gradient", "inputxgradient": "input-x-gradient",
    "ig": "integrated-gradients", "integratedgradients": "integrated-gradients", "eg": "expected-gradients",
    "gradient-shap": "expected-gradients", "gradientshap": "expected-gradients", "deepshap": "deep-shap",
    "deepliftshap": "deep-shap", "shap": "kernel-shap", "kernelshap": "kernel-shap",
    "gradcam": "grad-cam", "grad-cam++": "grad-cam-plus-plus", "gradcam++": "grad-cam-plus-plus",
    "gradcampp": "grad-cam-plus-plus", "cam": "grad-cam", "layercam": "layer-cam", "scorecam": "score-cam",
    "guided-backpropagation": "guided-backprop", "guidedbackprop": "guided-backprop", "gbp": "guided-backprop",
    "guided-gradcam": "guided-grad-cam", "deconvolution": "deconvnet", "deconv": "deconvnet",
    "deeplift": "deeplift-rescale", "rescale": "deeplift-rescale", "reveal-cancel": "deeplift-reveal-cancel",
    "smooth-grad": "smoothgrad", "noise-tunnel": "smoothgrad", "feature-ablation": "occlusion", "sliding": "occlusion",
}  # fmt: skip


def method(name: str | Method, **parameters: Any) -> Method:
    """The method `NAME[:PARAMETER=VALUE,…]`, with `parameters` set as well.

    Raises `UsageError` for an unknown name or parameter, or a parameter given twice.
    """
    if isinstance(name, str):
        named = Named.parse(name, "NAME[:PARAMETER=VALUE…]")
        if named.name not in METHODS:
            raise unknown_name("method", named.name, METHODS, also=ELSEWHERE)
        twice = next((key for key in parameters if key in named.parameters), None)
        if twice is not None:
            raise UsageError(f"{name}: {twice} is given once more, as a parameter of its own; give it once")
        return METHODS[named.name].configured({**named.parameters, **parameters})
    return name.configured(parameters)
