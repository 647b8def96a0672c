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
from bench_table import Row
from bench_torch import torch_settings
from bench_training import Bench, Training, bench, compared, stepping, timed

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
    target_train=0.04,
    attack_test=0.06,
    shadow_train=0.04,
    shadow_test=0.04,
    reference=0.06,
)
TARGET = models.cnn(CLASSES, (32, 64), 64)
EXPLAINED, REFERENCES, CANDIDATES, SHADOWS = 16, 256, 512, 4


def run(batch_size: int, rounds: int, steps: int | None) -> None:
    """Prints the rates of training the attack, of explaining, and of fitting every attack."""
    how = bench(batch_size, rounds, steps)
    kind = jax.devices()[0].device_kind
    print(f"jax {jax.__version__} on {kind}; batch {batch_size}, {rounds} rounds")
    print(torch_settings())
    for dtype in how.rates:
        for trunk, width in NETWORKS.items():
            print(training_step(trunk, width, dtype, how).line(), flush=True)
    for trunk, width in NETWORKS.items():
        print(restarting(trunk, width, how).line(), flush=True)
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


def training_step(trunk: str, width: float, dtype: str, how: Bench) -> Row:
    """One network's training step against PyTorch."""
    data = _maps(2 * how.batch_size)
    other = functools.partial(
        bench_membership_torch.step,
        trunk,
        width,
        dtype,
        data,
        how.batch_size,
        RECIPE,
        DROPOUT,
    )
    training = _step(trunk, width, (0,), dtype, data)
    return compared(f"membership, {trunk}, width {width}", dtype, training, other, how, "maps/s")


def restarting(trunk: str, width: float, how: Bench) -> Row:
    """Restarts in one program against as many programs in turn."""
    data = _maps(2 * how.batch_size)
    alone = stepping(_step(trunk, width, (0,), "float32", data), how.batch_size)

    def in_turn(steps: int) -> None:
        for _ in range(RESTARTS):
            alone(steps)

    together = _step(trunk, width, tuple(range(RESTARTS)), "float32", data)
    runs = {"together": stepping(together, how.batch_size), "in turn": in_turn}
    seconds = timed(runs, how.rounds, how.steps)
    rates = {}
    for name, value in seconds.items():
        rates[name] = RESTARTS * how.steps / value
    return Row(
        f"{RESTARTS} restarts, {trunk}, width {width}, in one program",
        "float32",
        "steps/s",
        rates["together"],
        note=f"in turn {rates['in turn']:.2f} steps/s, ratio"
        f" {rates['together'] / rates['in turn']:.2f}",
    )


def _step(
    trunk: str,
    width: float,
    numbers: tuple[int, ...],
    dtype: str,
    data: Mapping[str, np.ndarray],
) -> Training:
    """xinv's own step of networks with those numbers."""
    model = models.detector(trunk, width, DROPOUT, dtype)
    tx = train.optimizer(RECIPE, 1)
    # The network must not read the membership
    evidence = {name: leaf for name, leaf in data.items() if name != "member"}
    variables = ensemble.start(model, CLASSES, numbers, jax.random.key(0), evidence)
    state = train.State(np.int32(0), variables, tx.init(variables["params"]))
    loss = ensemble.objective(model, CLASSES, numbers)
    return Training(train.sgd_step(loss, tx), state, data)


def _explaining(rounds: int) -> None:
    """Maps per second of DeepLeak's methods, as an audit computes them."""
    rng = np.random.default_rng(0)
    images = rng.random((EXPLAINED, SIDE, SIDE, CHANNELS), np.float32)
    reference = rng.random((REFERENCES, SIDE, SIDE, CHANNELS), np.float32)
    variables = jax.jit(TARGET.init)(jax.random.key(0), images[:1])
    print(f"explaining {EXPLAINED} images of {SIDE}×{SIDE}×{CHANNELS} by a small CNN")
    for name in DEEPLEAK:
        # Methods without an entry compare with reference images; noise does for speed
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
        # Fit the smaller trunk once: its steps are measured above
        if factory is attacks.membership_network:
            hyper = dict(trunk="cnn", restarts=1)
        else:
            hyper = {}
        attack = attacks.build(factory.__name__, given, **hyper)
        # Attacks with another goal are told apart only once built
        if attack.goal != "membership":
            continue
        fit = _fit(attack)
        seconds = timed({"fit": lambda steps, fit=fit: fit()}, rounds, 1)["fit"]
        print(f"  {factory.__name__:22s} fits/s {1 / seconds:9.2f}", flush=True)


def _auditing() -> None:
    """Seconds of a small audit of every explainer, from images to rows, compiling included."""
    # Use a part of the digits: only the time is of interest
    config = deepleak.configured(AUDIT)
    config.data.roles.roles.update(ROLES)
    config.attack.train.batch_size = 32
    # The digits are 1,797 images
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
    # Paired attacks see every candidate under several models
    lead = (CANDIDATES, SHADOWS) if attack.paired else (CANDIDATES,)
    prediction = rng.dirichlet(np.ones(CLASSES), lead).astype(np.float32)
    maps = rng.normal(size=(*lead, SIDE, SIDE, CHANNELS)).astype(np.float32)
    member = np.arange(np.prod(lead)).reshape(lead) % 2
    # Such attacks receive statistics in place of maps
    if attack.summary:
        statistics = jnp.vectorize(
            attacks.signals.signals(attack.summary), signature="(h,w,c)->(t)"
        )(maps)
        maps = np.asarray(statistics)[..., None, None, :]
    # Make up everything an attack may need, and choose below
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
