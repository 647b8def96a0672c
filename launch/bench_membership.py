"""`bench.py membership`: see there."""

import dataclasses
import functools
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bench_membership_torch
import jax
import jax.numpy as jnp
import numpy as np
from bench_explainers import METHODS
from bench_training import Run, stepping, timed, torch, torch_settings

from xinv import attacks, audit, explain, models, store, train
from xinv.attacks import ensemble
from xinv.types import Attack, Observation, Population

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from configs import deepleak

SIDE, CHANNELS, CLASSES, DROPOUT = 32, 3, 10, 0.5
NETWORKS = {"cnn": 1.0, "mobilenet_v2": 0.25}
"""Trunks and their widths."""
RESTARTS = 5
RECIPE = train.Recipe(batch_size=128, epochs=15, weight_decay=1e-4, validation=0)
"""DeepLeak's."""
DEEPLEAK = (
    "saliency",
    "input_x_gradient",
    "integrated_gradients",
    "smoothgrad",
    "vargrad",
    "gradcam",
    "gradcam_plus_plus",
    "guided_backprop",
    "deconvolution",
    "deeplift",
    "occlusion",
    "lime",
    "kernel_shap",
    "protodash",
    "anchors",
)
AUDIT = dataclasses.replace(
    deepleak.sizes()["quick"],
    unit="bench",
    explainers=deepleak.LOCAL,
)
"""The audit that is timed: every explainer, on a part of the digits."""
ROLES = dict(
    target_train=0.04, attack_test=0.06, shadow_train=0.04, shadow_test=0.04, reference=0.06
)
TARGET = models.cnn(CLASSES, (32, 64), 64)
EXPLAINED, REFERENCES, CANDIDATES, SHADOWS = 16, 256, 512, 4


def run(batch_size: int, rounds: int, steps: int | None) -> None:
    """Prints the rates of training the attack, of explaining, and of fitting every attack."""
    steps = steps or (2 if jax.default_backend() == "cpu" else 128)
    kind = jax.devices()[0].device_kind
    print(f"jax {jax.__version__} on {kind}; batch {batch_size}, {rounds} rounds")
    print(torch_settings())
    data = _maps(2 * batch_size)
    for trunk, width in NETWORKS.items():
        _training(trunk, width, data, batch_size, rounds, steps)
    for trunk, width in NETWORKS.items():
        _restarting(trunk, width, data, batch_size, rounds, steps)
    _explaining(rounds)
    _fitting(rounds)
    _auditing()


def _maps(count: int) -> dict[str, np.ndarray]:
    """Noise as maps, and who is a member."""
    rng = np.random.default_rng(0)
    return {
        "prediction": np.zeros((count, 0), np.float32),
        "explanation": rng.normal(size=(count, SIDE, SIDE, CHANNELS)).astype(np.float32),
        "member": rng.integers(0, 2, count).astype(np.float32),
    }


def _training(
    trunk: str,
    width: float,
    data: Mapping[str, np.ndarray],
    batch_size: int,
    rounds: int,
    steps: int,
) -> None:
    """One network's training step against PyTorch."""
    runs = {"xinv": _step(trunk, width, (0,), data, batch_size)}
    if torch:
        runs["torch"] = bench_membership_torch.step(trunk, width, data, batch_size, RECIPE, DROPOUT)
    seconds = timed(runs, rounds, steps)
    rates = {name: batch_size * steps / value for name, value in seconds.items()}
    row = f"step, {trunk:13s} width {width}: maps/s: xinv {rates['xinv']:9.1f}"
    if torch:
        row += f"  torch {rates['torch']:9.1f}  ratio {rates['xinv'] / rates['torch']:.2f}"
    print(row, flush=True)


def _restarting(
    trunk: str,
    width: float,
    data: Mapping[str, np.ndarray],
    batch_size: int,
    rounds: int,
    steps: int,
) -> None:
    """Restarts in one program against as many programs in turn."""
    alone = _step(trunk, width, (0,), data, batch_size)

    def in_turn(steps: int) -> None:
        for _ in range(RESTARTS):
            alone(steps)

    together = _step(trunk, width, tuple(range(RESTARTS)), data, batch_size)
    seconds = timed({"together": together, "in turn": in_turn}, rounds, steps)
    ratio = seconds["in turn"] / seconds["together"]
    each = {name: value / steps for name, value in seconds.items()}
    print(
        f"{RESTARTS} restarts, {trunk:13s} seconds a step: in one program {each['together']:.3f}"
        f"  in turn {each['in turn']:.3f}  ratio {ratio:.2f}",
        flush=True,
    )


def _step(
    trunk: str,
    width: float,
    numbers: tuple[int, ...],
    data: Mapping[str, np.ndarray],
    batch_size: int,
) -> Run:
    """xinv's own step of networks with those numbers, dispatched as its training loop does."""
    model = models.detector(trunk, width, DROPOUT)
    tx = train.optimizer(RECIPE, 1)
    evidence = {name: leaf for name, leaf in data.items() if name != "member"}
    variables = ensemble.start(model, CLASSES, numbers, jax.random.key(0), evidence)
    state = train.State(np.int32(0), variables, tx.init(variables["params"]))
    loss = ensemble.objective(model, CLASSES, numbers)
    return stepping(train.sgd_step(loss, tx), state, data, batch_size)


def _explaining(rounds: int) -> None:
    """Maps per second of DeepLeak's methods, as an audit computes them."""
    rng = np.random.default_rng(0)
    images = rng.random((EXPLAINED, SIDE, SIDE, CHANNELS), np.float32)
    reference = rng.random((REFERENCES, SIDE, SIDE, CHANNELS), np.float32)
    variables = jax.jit(TARGET.init)(jax.random.key(0), images[:1])
    print(f"explaining {EXPLAINED} images of {SIDE}×{SIDE}×{CHANNELS} by a small CNN")
    for name in DEEPLEAK:
        if name in METHODS:
            own = METHODS[name].explainer
        else:
            own = explain.build(name, dict(reference=reference))
        inputs = own, TARGET.apply, variables, images, None, jax.random.key(1)
        maps = functools.partial(explain.batch, *inputs)
        seconds = timed({name: lambda steps, maps=maps: maps()}, rounds, 1)[name]
        print(f"  {name:22s} maps/s {EXPLAINED / seconds:9.1f}", flush=True)


def _fitting(rounds: int) -> None:
    """Fits per second of every attack on membership."""
    print(f"fitting to {CANDIDATES} maps of {SIDE}×{SIDE}×{CHANNELS}; networks for one epoch")
    given = {"inputs": ("explanation",), "recipe": dataclasses.replace(RECIPE, epochs=1)}
    for factory in attacks.FACTORIES:
        hyper = dict(trunk="cnn", restarts=1) if factory is attacks.membership_network else {}
        attack = attacks.build(factory.__name__, given, **hyper)
        if attack.goal != "membership":
            continue
        fit = _fit(attack)
        seconds = timed({"fit": lambda steps, fit=fit: fit()}, rounds, 1)["fit"]
        print(f"  {factory.__name__:22s} fits/s {1 / seconds:9.2f}", flush=True)


def _auditing() -> None:
    """Seconds of a small audit of every explainer, from images to rows, compiling included."""
    config = deepleak.configured(AUDIT)
    config.data.roles.roles.update(ROLES)
    config.attack.train.batch_size = 32
    members, others = (round(1797 * ROLES[role]) for role in deepleak.POOL)
    explainers = len(config.explanations)
    print(
        f"one audit: {explainers} explainers, {members} members, {others} others, 32×32×1; a"
        " small CNN"
    )
    settings = json.loads(json.dumps(config.to_dict()))
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, store.opened(Path(folder) / "stages") as stages:
        rows = audit.run(settings, Path(folder) / "audit", stages)
    seconds = time.monotonic() - started
    attacks_run = {row["arm"] for row in rows if row["stage"] == "attack"}
    print(f"  seconds an audit {seconds:8.1f}, {len(attacks_run)} attacks and controls", flush=True)


def _fit(attack: Attack) -> Any:
    """A call that fits `attack` to noise, of several shadow models where it learns of such."""
    rng = np.random.default_rng(0)
    lead = (CANDIDATES, SHADOWS) if attack.paired else (CANDIDATES,)
    prediction = rng.dirichlet(np.ones(CLASSES), lead).astype(np.float32)
    maps = rng.normal(size=(*lead, SIDE, SIDE, CHANNELS)).astype(np.float32)
    member = np.arange(np.prod(lead)).reshape(lead) % 2
    if attack.summary:
        statistics = jnp.vectorize(
            attacks.signals.signals(attack.summary), signature="(h,w,c)->(t)"
        )(maps)
        maps = np.asarray(statistics)[..., None, None, :]
    holdings = {
        "label": rng.integers(0, CLASSES, CANDIDATES).astype(np.int32),
        "image": rng.random((CANDIDATES, SIDE, SIDE, CHANNELS), np.float32),
    }
    public = rng.dirichlet(np.ones(CLASSES), (REFERENCES, *lead[1:])).astype(np.float32)
    classes = rng.integers(0, CLASSES, REFERENCES).astype(np.int32)
    holdings["population"] = Population(public, classes)
    held = {name: holdings[name] for name in attack.needs}
    observed = Observation(prediction, maps)
    return functools.partial(attack.fit, jax.random.key(0), observed, member, **held)
