"""`bench.py explainers`: see there. What captum does beside it is in bench_captum.py."""

import ctypes
import functools
import math
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from bench_table import Row
from bench_training import matmul_rate

from xinv import explain, models
from xinv.explain.batch import at_once
from xinv.explain.engine import memory
from xinv.explain.perturbation.segment import slic
from xinv.types import Explainer, InputError, Model

STEPS, SAMPLES, STDEV, SEGMENTS, ORDERS, WINDOW, STRIDE = 50, 25, 0.15, 25, 2, 1 / 4, 1 / 8
"""Settings of both libraries: of integrated gradients, all that samples, superpixels, Shapley
values, occlusion (in sides of the image).
"""
SIZE = 32
SHORTEST = 0.2
"""Seconds: a measurement repeats a fast method until it lasts so long."""


class Method(NamedTuple):
    """An explainer, and its passes through the model per map, a backward pass being worth a forward
    pass.
    """

    explainer: Explainer
    passes: int


class Run(NamedTuple):
    """`start` explains the batch and waits for the maps; `device_mib` is what it needs of an
    accelerator's memory.
    """

    start: Callable[[], Any]
    device_mib: Callable[[], float]


class Network(NamedTuple):
    """A network and the shape of its images."""

    model: Model
    shape: tuple[int, int, int]


class Inputs(NamedTuple):
    """The explained: images [B,H,W,C], the classes predicted for them [B], and the model's
    variables.
    """

    variables: Any
    images: jax.Array
    labels: jax.Array


NETWORKS = {
    "cnn": Network(models.cnn(10), (SIZE, SIZE, 1)),
    "mobilenet_v2": Network(models.mobilenet_v2(10), (SIZE, SIZE, 3)),
    "vit_tiny": Network(models.vit(10), (SIZE, SIZE, 3)),
}
LARGE = {
    "mobilenet_v2_224": Network(models.mobilenet_v2(1000, stem="large"), (224, 224, 3)),
}
"""Measured where they are asked for: a round takes minutes on CPU."""
FIRST_NETWORKS = {
    "resnet18": Network(models.resnet(10), (SIZE, SIZE, 3)),
    "resnet50": Network(models.resnet(1000, 50, stem="large"), (224, 224, 3)),
    "vit_tiny": NETWORKS["vit_tiny"],
}
"""What the time to a first map is measured on."""


def methods_of(side: int) -> dict[str, Method]:
    """The explainers with their settings for images of that size."""
    window = round(WINDOW * side)
    stride = round(STRIDE * side)
    # Passes per map depend on the numbers of windows and superpixels
    windows = (math.ceil((side - window) / stride) + 1) ** 2
    superpixels = slic(SEGMENTS).count(side, side)
    return {
        "gradient": Method(explain.gradient(), 2),
        "saliency": Method(explain.saliency(), 2),
        "input_x_gradient": Method(explain.input_x_gradient(), 2),
        "integrated_gradients": Method(explain.integrated_gradients(STEPS), 2 * STEPS),
        "smoothgrad": Method(explain.smoothgrad(STDEV, SAMPLES), 2 * SAMPLES),
        "vargrad": Method(explain.vargrad(STDEV, SAMPLES), 2 * SAMPLES),
        "deconvolution": Method(explain.deconvolution(), 2),
        "guided_backprop": Method(explain.guided_backprop(), 2),
        "deeplift": Method(explain.deeplift(), 3),
        "lrp": Method(explain.lrp("epsilon"), 2),
        "gradcam": Method(explain.gradcam(), 1),
        "gradcam_plus_plus": Method(explain.gradcam_plus_plus(), 1),
        "class_cams": Method(explain.class_cams(), 1),
        "constituent_cams": Method(explain.constituent_cams(), 1),
        "guided_gradcam": Method(explain.guided_gradcam(), 3),
        "occlusion": Method(explain.occlusion(window, stride), windows + 1),
        "lime": Method(explain.lime(SAMPLES, SEGMENTS), SAMPLES),
        "kernel_shap": Method(explain.kernel_shap(SAMPLES, SEGMENTS), SAMPLES),
        "shapley_sampling": Method(
            explain.shapley_sampling(ORDERS, SEGMENTS), ORDERS * (superpixels - 1) + 2
        ),
    }


METHODS = methods_of(SIZE)


def run(
    batch_size: int | None,
    rounds: int,
    methods: list[str] | None,
    networks: list[str] | None,
    captum: Any = None,
) -> None:
    """Prints a table of images per second, beside those of the module `captum` (bench_captum.py),
    if there is one.
    """
    methods = _chosen("method", methods, METHODS)
    networks = _chosen("network", networks, NETWORKS, LARGE)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves room for PyTorch
    batch_size = batch_size or (16 if jax.default_backend() == "cpu" else 64)
    print(
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}; batches of {batch_size},"
        f" {rounds} rounds"
    )
    print(
        captum.settings()
        if captum
        else "captum is not installed (pip install 'xinv[bench]'): xinv alone"
    )
    ratios = []
    peak = matmul_rate("float32", 2048 if jax.default_backend() == "cpu" else 8192)
    for name in networks:
        operations = _operations((NETWORKS | LARGE)[name])
        print(f"{name}: a forward pass takes {operations / 1e6:.0f} million operations;", end=" ")
        print(
            f"at the {peak / 1e12:.2f} TFLOP/s of a matrix product {peak / operations:.0f} images/s"
        )
        print(
            f"{name:22s}xinv: images/s  of roofline      MiB   captum: images/s      MiB    ratio"
        )
        for row in measured(name, methods, batch_size, rounds, captum):
            print(_line(row), flush=True)
            if row.ratio:
                ratios.append(row.ratio)
    # Average ratios geometrically: 2 and 1/2 cancel
    if ratios:
        print(
            f"geometric mean of {len(ratios)} ratios {statistics.geometric_mean(ratios):.2f}, least"
            f" {min(ratios):.2f}"
        )


class Explained(NamedTuple):
    """A row, and what only explainers have.

    Attributes:
      row: rates in images per second.
      roofline: fraction of the rate at which the method's passes would run as forward passes.
      captum_mib: memory that captum needs.
    """

    row: Row
    roofline: float | None = None
    captum_mib: float | None = None

    @property
    def ratio(self) -> float | None:
        """The rate of xinv over captum's."""
        return self.row.ratio


def measured(
    name: str,
    methods: list[str],
    batch_size: int,
    rounds: int,
    captum: Any = None,
) -> Iterator[Explained]:
    """Explains images by a network, with each method, by xinv and by the module `captum`."""
    network = (NETWORKS | LARGE)[name]
    inputs = _inputs(network, batch_size)
    side = network.shape[0]
    # Both libraries explain the same images with the same weights
    theirs = captum.runs(name, inputs, methods) if captum else {}  # {} if captum has no twin
    for method in methods:
        how = methods_of(side)[method]
        try:
            yield _measure(method, how, network.model, inputs, theirs.get(method), rounds)
        except InputError as error:  # what a method refuses is a finding
            yield Explained(Row(method, note=str(error)))


def first(methods: list[str] | None, networks: list[str] | None) -> None:
    """Prints the seconds of tracing and of compiling one map of one image, beside `jax.grad`."""
    methods = _chosen("method", methods, METHODS)
    networks = _chosen("network", networks, FIRST_NETWORKS)
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}; one image, nothing cached")
    for name in networks:
        model, shape = FIRST_NETWORKS[name]
        print(f"{name:22s} trace, s  compile, s  total, s  of jax.grad")
        # The last column counts in units of jax.grad
        grad = _prepared(_gradient, model, shape)
        print(_first_row("jax.grad", grad, grad), flush=True)
        for method in methods:
            try:
                took = _prepared(METHODS[method].explainer, model, shape)
            except InputError as error:  # what a method refuses is a finding
                print(f"  {method:20s} {error}", flush=True)
                continue
            print(_first_row(method, took, grad), flush=True)


class Preparation(NamedTuple):
    """Seconds before a program runs for the first time; lowering counts as tracing."""

    trace: float
    compile: float


def _prepared(explainer: Explainer, model: Model, shape: tuple[int, int, int]) -> Preparation:
    """Traces and compiles a batch of one map; on shapes alone, so that nothing else is compiled."""
    # Forget the programs of earlier methods, with parts in common
    jax.clear_caches()
    key = jax.eval_shape(lambda: jax.random.key(0))
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(model.init, key, images)
    labels = jax.ShapeDtypeStruct((1,), jnp.int32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    one = functools.partial(explainer, model.apply)
    program = jax.jit(jax.vmap(one, (None, 0, 0, 0)))
    # Time tracing and compiling apart
    begin = time.perf_counter()
    lowered = program.trace(variables, images, labels, keys).lower()
    traced = time.perf_counter()
    lowered.compile()
    return Preparation(traced - begin, time.perf_counter() - traced)


def _gradient(
    apply: Any,
    variables: Any,
    image: jax.Array,
    label: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """The gradient as a user would write it, without the engine."""
    del key
    return jax.grad(lambda image: apply(variables, image[None])[0, label])(image)


def _first_row(name: str, took: Preparation, grad: Preparation) -> str:
    ratio = sum(took) / sum(grad)
    return f"  {name:20s}{took.trace:9.2f} {took.compile:11.2f} {sum(took):9.2f} {ratio:12.2f}"


def _chosen(
    kind: str,
    names: list[str] | None,
    known: Mapping[str, Any],
    others: Mapping[str, Any] = MappingProxyType({}),
) -> list[str]:
    """The names that were asked for, also of `others`; or all that are known."""
    allowed = {**known, **others}
    for name in names or ():
        if name not in allowed:
            raise InputError(f"unknown {kind} {name!r}: choose of {', '.join(allowed)}")
    return names or [*known]


def _inputs(network: Network, batch_size: int) -> Inputs:
    images = jax.random.uniform(jax.random.key(0), (batch_size, *network.shape))
    variables = jax.jit(network.model.init)(jax.random.key(1), images[:1])
    return Inputs(
        variables,
        images,
        jnp.argmax(jax.jit(network.model.apply)(variables, images), -1),
    )


def _operations(network: Network) -> float:
    """Of a forward pass of one image, as XLA counts them."""
    image = jax.ShapeDtypeStruct((1, *network.shape), jnp.float32)
    variables = jax.eval_shape(network.model.init, jax.random.key(0), image)
    return jax.jit(network.model.apply).lower(variables, image).cost_analysis()["flops"]


def _measure(
    name: str,
    method: Method,
    model: Model,
    inputs: Inputs,
    captum: Run | None,
    rounds: int,
) -> Explained:
    count = len(inputs.images)
    forward = jax.jit(model.apply)
    xinv = _xinv(method.explainer, model, inputs)
    # Measure forward passes in the same rounds, for the roofline
    starts = {"forward": lambda: jax.block_until_ready(forward(*inputs[:2])), "xinv": xinv.start}
    # Time the first call by itself: it compiles
    begin = time.perf_counter()
    xinv.start()
    first = time.perf_counter() - begin
    if captum:
        starts["captum"] = captum.start
    seconds = _time(starts, rounds)
    rate = count / seconds["xinv"]
    row = Row(name, "float32", "images/s", rate, mib=_peak(xinv), compile=first)
    explained = Explained(row, method.passes * seconds["forward"] / seconds["xinv"])
    if not captum:
        return explained
    row = row._replace(torch=count / seconds["captum"])
    return explained._replace(row=row, captum_mib=_peak(captum))


def _line(explained: Explained) -> str:
    row = explained.row
    if row.xinv is None:
        return f"  {row.name:20s} {row.note}"
    text = f"  {row.name:20s}{row.xinv:15.1f} {explained.roofline:12.0%} {row.mib:8.0f}"
    if row.torch:
        text += f"   {row.torch:16.1f} {explained.captum_mib:8.0f} {row.ratio:8.2f}"
    return text


def _xinv(explainer: Explainer, model: Model, inputs: Inputs) -> Run:
    """Returns the compiled program of `explain.batch`.

    It takes as many images at a time as fit into memory.
    """
    one = functools.partial(explainer, model.apply)
    variables, images, labels = inputs
    size = memory.chunk(
        len(images), at_once(explainer, model.apply, variables, images, jax.random.key(2))
    )
    keys = jax.random.split(jax.random.key(2), len(images))
    # Split beforehand, since slicing is not part of the method
    parts = []
    for start in range(0, len(images), size):
        parts.append(tuple(x[start : start + size] for x in (images, labels, keys)))
    program = jax.jit(jax.vmap(one, (None, 0, 0, 0)))

    def device_mib() -> float:
        # The first part is the largest
        needs = program.lower(variables, *parts[0]).compile().memory_analysis()
        return (needs.temp_size_in_bytes + needs.output_size_in_bytes) / 2**20

    return Run(
        lambda: jax.block_until_ready([program(variables, *part) for part in parts]), device_mib
    )


def _peak(run: Run) -> float:
    """MiB of the accelerator; on CPU those that the process grows by."""
    if jax.default_backend() != "cpu":
        return run.device_mib()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed but kept would be used again unseen
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM, the highest, to VmRSS, the present
    before = _status("VmRSS")
    run.start()
    return (_status("VmHWM") - before) / 2**10


def _status(name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def _time(starts: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median seconds of each, in turns, so that what else the machine does meets all of them
    alike.
    """
    seconds = {key: [] for key in starts}
    for start in starts.values():
        start()  # compiles
    for _ in range(rounds):
        for key, start in starts.items():
            # Repeat fast methods, by the time of their first round
            repeats = math.ceil(SHORTEST / seconds[key][0]) if seconds[key] else 1
            begin = time.perf_counter()
            for _ in range(repeats):
                start()
            seconds[key].append((time.perf_counter() - begin) / repeats)
    return {key: statistics.median(values) for key, values in seconds.items()}
