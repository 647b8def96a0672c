"""captum's side of `bench.py explainers`: xinv's classifiers as PyTorch modules with the same
weights, explained.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import captum
import jax
import numpy as np
import torch
from bench_explainers import (
    ORDERS,
    SAMPLES,
    SEGMENTS,
    SIZE,
    STDEV,
    STEPS,
    STRIDE,
    WINDOW,
    Inputs,
    Run,
)
from captum import attr
from captum._utils.models.linear_model import SkLearnLasso
from captum.attr._core import deep_lift, lrp
from captum.attr._core.lime import get_exp_kernel_similarity_function
from captum.attr._utils.custom_modules import Addition_Module
from torch import nn

from xinv.explain.perturbation.segment import slic
from xinv.models.mobilenet import STAGES

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
AT_ONCE = {"cpu": 64, "cuda": 4096}[DEVICE]
"""Images of 32×32 per forward pass where captum asks for a batch size."""
Arrays = Mapping[str, Any]


class Task(NamedTuple):
    """Images [B,C,H,W], classes [B] and label maps [B,1,H,W].

    `plain` and `hooked` are the same function; the latter is made of modules that captum has rules
    for.
    """

    plain: "Twin"
    hooked: "Twin"
    x: torch.Tensor
    y: torch.Tensor
    superpixels: torch.Tensor

    @property
    def at_once(self) -> int:
        """Images in a forward pass: as many pixels for images of any size."""
        return max(1, AT_ONCE * SIZE**2 // (self.x.shape[2] * self.x.shape[3]))

    @property
    def copies(self) -> int:
        """Copies of every image in a forward pass."""
        return max(1, self.at_once // len(self.x))


def _simple(name: str, net: str = "plain") -> Callable[[Task], Any]:
    return lambda t: getattr(attr, name)(getattr(t, net)).attribute(t.x, target=t.y)


def _integrated_gradients(t: Task) -> Any:
    return attr.IntegratedGradients(t.plain).attribute(
        t.x,
        target=t.y,
        n_steps=STEPS,
        internal_batch_size=t.at_once,
    )


def _noisy(kind: str) -> Callable[[Task], Any]:
    # Keep the sign: captum's saliency is absolute by default
    options = {"nt_type": kind, "nt_samples": SAMPLES, "stdevs": STDEV, "abs": False}
    return lambda t: attr.NoiseTunnel(attr.Saliency(t.plain)).attribute(
        t.x, target=t.y, nt_samples_batch_size=min(SAMPLES, t.copies), **options
    )


def _gradcam(t: Task) -> Any:
    return attr.LayerGradCam(t.plain, t.plain.cam).attribute(t.x, t.y, relu_attributions=True)


def _guided_gradcam(t: Task) -> Any:
    return attr.GuidedGradCam(t.hooked, t.hooked.cam).attribute(
        t.x,
        t.y,
        interpolate_mode="bilinear",
    )


def _occlusion(t: Task) -> Any:
    # Cover all channels by each window
    channels, side = t.x.shape[1:3]
    window, stride = ((channels, n, n) for n in (round(WINDOW * side), round(STRIDE * side)))
    return attr.Occlusion(t.plain).attribute(
        t.x,
        window,
        stride,
        target=t.y,
        perturbations_per_eval=t.copies,
    )


def _lime(t: Task) -> Any:
    similarity = get_exp_kernel_similarity_function("cosine", 1.0)
    return _sampled(attr.Lime(t.plain, SkLearnLasso(alpha=0.01), similarity), t, SAMPLES, SAMPLES)


def _kernel_shap(t: Task) -> Any:
    return _sampled(attr.KernelShap(t.plain), t, SAMPLES, SAMPLES)


def _shapley_sampling(t: Task) -> Any:
    return _sampled(attr.ShapleyValueSampling(t.plain), t, ORDERS, t.copies)


def _sampled(method: Any, t: Task, samples: int, at_once: int) -> Any:
    """`at_once` counts copies of one image for LIME and KernelSHAP, which go image by image; of all
    for the third.
    """
    options = {
        "n_samples": samples,
        "perturbations_per_eval": at_once,
        "feature_mask": t.superpixels,
    }
    return method.attribute(t.x, target=t.y, **options)


METHODS = {
    "saliency": _simple("Saliency"),
    "input_x_gradient": _simple("InputXGradient"),
    "integrated_gradients": _integrated_gradients,
    "smoothgrad": _noisy("smoothgrad"),
    "vargrad": _noisy("vargrad"),
    "deconvolution": _simple("Deconvolution", "hooked"),
    "guided_backprop": _simple("GuidedBackprop", "hooked"),
    "deeplift": _simple("DeepLift", "hooked"),
    "lrp": _simple("LRP", "hooked"),
    "gradcam": _gradcam,
    "guided_gradcam": _guided_gradcam,
    "occlusion": _occlusion,
    "lime": _lime,
    "kernel_shap": _kernel_shap,
    "shapley_sampling": _shapley_sampling,
}


def settings() -> str:
    """Sets PyTorch up as its users would for speed, and says so."""
    warnings.filterwarnings("ignore", module="captum")
    # Allow TF32, as JAX does by default on NVIDIA
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    place = "cuda: cudnn.benchmark, TF32 (as jax)" if DEVICE == "cuda" else "cpu"
    return (
        f"captum {captum.__version__}, torch {torch.__version__} on {place},"
        f" {torch.get_num_threads()} threads"
    )


def runs(network: str, inputs: Inputs, methods: Sequence[str]) -> dict[str, Run]:
    """Returns a function that explains the batch, for each method that captum has too."""
    if network not in TWINS:
        return {}
    # Perturb the same superpixels in both libraries
    labels = jax.vmap(slic(SEGMENTS).labels)(inputs.images)[..., None]
    x, superpixels = (
        torch.tensor(np.moveaxis(np.asarray(a), -1, 1).copy(), device=DEVICE)
        for a in (inputs.images, labels)
    )
    plain, hooked = (
        TWINS[network](inputs.variables, hooked).eval().to(DEVICE) for hooked in (False, True)
    )
    task = Task(
        plain,
        hooked,
        x,
        torch.tensor(np.asarray(inputs.labels), device=DEVICE).long(),
        superpixels.long(),
    )
    # A ratio is meaningless if the twin computes something else
    if not (plain(x).argmax(1) == task.y).all() or not torch.allclose(
        plain(x), hooked(x), rtol=1e-2, atol=1e-3
    ):
        raise AssertionError(f"the PyTorch twin of {network} computes something else")
    return {name: _run(METHODS[name], task) for name in methods if name in METHODS}


def _run(method: Callable[[Task], Any], task: Task) -> Run:
    def start() -> None:
        method(task)
        # Wait for the maps: kernels run asynchronously
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    def device_mib() -> float:
        # Count the growth alone: weights and images are there already
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        start()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    return Run(start, device_mib)


class Twin(nn.Module):
    """Features, then fully connected layers; `marked` is the place among the features of the
    Grad-CAM map.
    """

    def __init__(self, features: nn.Sequential, head: nn.Module, marked: int):
        super().__init__()
        self.features, self.head, self.marked = features, head, marked

    @property
    def cam(self) -> nn.Module:
        """Returns the layer of the Grad-CAM map; no attribute, or captum would hook it twice."""
        return self.features[self.marked]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images [N,C,H,W]."""
        return self.head(self.features(x).permute(0, 2, 3, 1).flatten(1))  # as NHWC flattens


def _cnn(variables: Arrays, hooked: bool) -> Twin:
    """`xinv.models.cnn`; captum has rules for all its modules, whether `hooked` or not."""
    del hooked
    rows = variables["params"]["layers"]
    features = []
    head = []
    # Sort by number: by name, conv10 would come before conv2
    for name in sorted(rows, key=lambda name: int(name.lstrip("convf"))):
        if name.startswith("conv"):
            features += [_convolution(rows[name]), nn.ReLU(), nn.MaxPool2d(2)]
        else:
            head += [_dense(rows[name]), nn.ReLU()]
    # No ReLU follows the logits
    return Twin(nn.Sequential(*features), nn.Sequential(*head[:-1]), -1)


def _mobilenet_v2(large: bool, variables: Arrays, hooked: bool) -> Twin:
    """`xinv.models.mobilenet_v2` with the large stem or the small one."""
    activation = _ClippedReLU if hooked else nn.ReLU6
    scopes = []
    for name in ("params", "batch_stats"):
        scopes.append(variables[name]["features"])
    # Only the first block of a stage has its stride
    strides = [1 if index else stride for _, _, count, stride in STAGES for index in range(count)]
    # With the small stem the second stage keeps its size too
    if not large:
        strides[1] = 1
    blocks = []
    for number, stride in enumerate(strides):
        blocks.append(
            _InvertedResidual(
                *(scope[f"_InvertedResidual_{number}"] for scope in scopes),
                stride,
                activation,
            )
        )
    # Stem and last convolution are the units outside the blocks
    first = nn.Sequential(*_unit(*scopes, 0, 2 if large else 1))
    last = nn.Sequential(*_unit(*scopes, 1))
    features = nn.Sequential(
        first,
        activation(),
        *blocks,
        last,
        activation(),
        nn.AdaptiveAvgPool2d(1),
    )
    # Grad-CAM reads the last activation, before the average
    return Twin(features, _dense(variables["params"]["head"]), -2)


TWINS = {
    "cnn": _cnn,
    "mobilenet_v2": partial(_mobilenet_v2, False),
    "mobilenet_v2_224": partial(_mobilenet_v2, True),
}


class _ClippedReLU(nn.ReLU):
    """ReLU6 that captum takes for a ReLU: it would silently explain nn.ReLU6 by its gradient,
    whatever the method.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.relu6(x)


# Register the rules in captum's private tables
deep_lift.SUPPORTED_NON_LINEAR[_ClippedReLU] = deep_lift.nonlinear
lrp.SUPPORTED_NON_LINEAR_LAYERS.append(_ClippedReLU)


class _InvertedResidual(nn.Module):
    def __init__(
        self,
        params: Arrays,
        stats: Arrays,
        stride: int,
        activation: Callable[[], nn.Module],
    ):
        super().__init__()
        units = []
        count = len(stats)
        for number in range(count):
            # The depthwise convolution is followed by the projection alone
            depthwise = number == count - 2
            units += _unit(params, stats, number, stride if depthwise else 1, depthwise)
            # The projection is linear
            units += [activation()] if number < count - 1 else []
        self.units = nn.Sequential(*units)
        # captum's LRP needs a module for a sum
        self.add = Addition_Module()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.units(x)
        # Add the input where stride and channels leave its shape
        if x.shape == y.shape:
            return self.add(x, y)
        return y


def _unit(
    params: Arrays,
    stats: Arrays,
    number: int,
    stride: int = 1,
    depthwise: bool = False,
) -> list[nn.Module]:
    """A convolution and its BatchNorm."""
    scale = params[f"BatchNorm_{number}"]
    statistics = stats[f"BatchNorm_{number}"]
    norm = nn.BatchNorm2d(len(scale["bias"]))
    _fill(
        norm,
        weight=scale["scale"],
        bias=scale["bias"],
        running_mean=statistics["mean"],
        running_var=statistics["var"],
    )
    return [_convolution(params[f"_Conv_{number}"], stride, depthwise), norm]


def _convolution(arrays: Arrays, stride: int = 1, depthwise: bool = False) -> nn.Conv2d:
    # Kernels are HWIO here, and OIHW in PyTorch
    size, _, inputs, outputs = arrays["kernel"].shape
    groups = outputs if depthwise else 1
    options = {"stride": stride, "padding": size // 2, "groups": groups, "bias": "bias" in arrays}
    layer = nn.Conv2d(inputs * groups, outputs, size, **options)
    _fill(
        layer,
        weight=np.transpose(arrays["kernel"], (3, 2, 0, 1)),
        **{k: v for k, v in arrays.items() if k == "bias"},
    )
    return layer


def _dense(arrays: Arrays) -> nn.Linear:
    layer = nn.Linear(*arrays["kernel"].shape)
    _fill(layer, weight=arrays["kernel"].T, bias=arrays["bias"])
    return layer


def _fill(layer: nn.Module, **arrays: Any) -> None:
    # Copy the arrays: those of JAX are read-only
    for name, array in arrays.items():
        getattr(layer, name).data = torch.tensor(np.array(array))
