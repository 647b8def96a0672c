"""`bench.py training`: see there."""

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from bench_networks import NETWORKS, Network, examples
from bench_table import Row
from bench_torch import Run, step_of, torch, torch_settings

from xinv import parallel, train


class Rates(NamedTuple):
    """A machine's rates: FLOP/s of a product, and bytes/s, read and written, of a copy."""

    product: float
    copy: float


class Training(NamedTuple):
    """A training that is measured: its step, where it starts, and all of its data."""

    step: parallel.Step
    state: train.State
    data: Mapping[str, np.ndarray]


class Bench(NamedTuple):
    """A measurement of training steps.

    Attributes:
      batch_size, rounds, steps: images per step, alternating measurements, and steps in each.
      rates: of the machine, for each dtype.
      compiles: whether PyTorch is measured by torch.compile too.
    """

    batch_size: int
    rounds: int
    steps: int
    rates: Mapping[str, Rates]
    compiles: bool


def bench(batch_size: int, rounds: int, steps: int | None) -> Bench:
    """Measures the machine, in bfloat16 too where that is an accelerator."""
    cpu = jax.default_backend() == "cpu"
    dtypes = ("float32",) if cpu else ("float32", "bfloat16")
    rates = {dtype: machine(dtype) for dtype in dtypes}
    return Bench(batch_size, rounds, steps or (2 if cpu else 128), rates, not cpu)


def machine(dtype: str) -> Rates:
    """Measures by arrays of a size that fills the machine."""
    cpu = jax.default_backend() == "cpu"
    return Rates(matmul_rate(dtype, 2048 if cpu else 8192), copy_rate(2**27 if cpu else 2**31))


def run(batch_size: int, rounds: int, steps: int | None) -> None:
    """Prints a table of images per second."""
    how = bench(batch_size, rounds, steps)
    print(
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}; batch {batch_size}, {rounds}"
        f" rounds of {how.steps} steps"
    )
    print(torch_settings())
    for dtype, rates in how.rates.items():
        print(f"{dtype}: a matrix product reaches {rates.product / 1e12:.2f} TFLOP/s")
        for name, network in NETWORKS.items():
            for row in measured(name, network, dtype, how):
                print(f"  {row.line()}", flush=True)


def measured(name: str, network: Network, dtype: str, how: Bench) -> Iterator[Row]:
    """Training steps of a network, and of a classifier those of DP-SGD too."""
    data = examples(4 * how.batch_size)
    yield compared(
        name,
        dtype,
        plain(network, dtype, data),
        functools.partial(step_of, network, dtype, data, how.batch_size),
        how,
    )
    if network.classifier:
        private = plain(network, dtype, data, True)
        row = compared(f"{name} by DP-SGD", dtype, private, None, how)
        # It may loop over examples, and XLA counts the body of a loop once
        yield row._replace(product=None, copy=None)


def compared(
    name: str,
    dtype: str,
    training: Training,
    other: Callable[[bool], Run] | None,
    how: Bench,
    unit: str = "images/s",
) -> Row:
    """xinv's steps beside PyTorch's, in turns.

    Args:
      name, dtype, unit: of the row.
      training: xinv's own step.
      other: makes PyTorch's run, by torch.compile if the argument is true; None is without.
      how: see Bench.
    """
    runs = {"xinv": stepping(training, how.batch_size)}
    notes = []
    kinds = {"torch": False, "compiled": True} if how.compiles else {"torch": False}
    for kind, compiles in kinds.items() if torch and other else ():
        try:
            runs[kind] = started(other(compiles))
        except Exception as error:  # another library's failure is no reason to lose xinv's figure
            notes.append(f"{kind}: {type(error).__name__}: {str(error).splitlines()[0][:80]}")
    rates = {}
    for kind, seconds in timed(runs, how.rounds, how.steps).items():
        rates[kind] = how.batch_size * how.steps / seconds
    # State shares of the machine's own rates, to show how much is left to gain
    needs = program(training, how.batch_size)
    steps_per_second = rates["xinv"] / how.batch_size
    return Row(
        name,
        dtype,
        unit,
        **rates,
        product=steps_per_second * needs.operations / how.rates[dtype].product,
        copy=steps_per_second * needs.moved / how.rates[dtype].copy,
        mib=needs.mib,
        compile=needs.seconds,
        note="; ".join(notes),
    )


def started(run: Run) -> Run:
    """Takes a first step, which compiles, so that what fails does so here."""
    run(1)
    return run


class Program(NamedTuple):
    """A compiled step, as XLA counts it: operations, bytes moved, MiB of memory, and the seconds in
    which it was compiled.
    """

    operations: float
    moved: float
    mib: float
    seconds: float


def program(training: Training, batch_size: int) -> Program:
    """Compiles the program of one step, for its figures."""
    batch = parallel.take(dict(training.data), np.arange(batch_size))
    keys = parallel.per_device(jax.random.key(1))
    begin = time.perf_counter()
    stepping_once = parallel.pmap_step(training.step)
    lowered = stepping_once.lower(training.state, parallel.shard(batch), keys)
    compiled = lowered.compile()
    seconds = time.perf_counter() - begin
    # A custom call, as cuDNN's convolution, has no operations once it is compiled
    operations = lowered.cost_analysis()["flops"]
    return Program(
        operations,
        compiled.cost_analysis()["bytes accessed"],
        memory(compiled),
        seconds,
    )


def memory(compiled: Any) -> float:
    """MiB that a compiled program needs, with its arguments and results."""
    needs = compiled.memory_analysis()
    total = needs.temp_size_in_bytes + needs.argument_size_in_bytes + needs.output_size_in_bytes
    return (total - needs.alias_size_in_bytes) / 2**20


def timed(runs: Mapping[str, Run], rounds: int, steps: int) -> dict[str, float]:
    """The median seconds of each, in turns, so that what else the machine does meets all of them
    alike.
    """
    seconds = {key: [] for key in runs}
    for start in runs.values():
        start(steps)  # compiles, and tunes cuDNN
    for _ in range(rounds):
        for key, start in runs.items():
            begin = time.perf_counter()
            start(steps)
            seconds[key].append(time.perf_counter() - begin)
    return {key: statistics.median(values) for key, values in seconds.items()}


def matmul_rate(dtype: str, size: int) -> float:
    """FLOP/s of the fastest of ten large matrix products."""
    x = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    product = jax.jit(jnp.matmul)
    # Compile before the measurement
    product(x, x).block_until_ready()
    seconds = []
    for _ in range(10):
        begin = time.perf_counter()
        product(x, x).block_until_ready()
        seconds.append(time.perf_counter() - begin)
    # A product takes size³ multiplications and as many additions
    return 2 * size**3 / min(seconds)


def copy_rate(size: int) -> float:
    """Bytes/s, read and written, of the fastest of ten passes over an array of `size` bytes."""
    x = jnp.ones(size // 4, jnp.float32)
    # In place: on CPU the pages of a new array would be made first
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = add(x).block_until_ready()
    seconds = []
    for _ in range(10):
        begin = time.perf_counter()
        x = add(x).block_until_ready()
        seconds.append(time.perf_counter() - begin)
    return 2 * x.nbytes / min(seconds)


def plain(
    network: Network,
    dtype: str,
    data: Mapping[str, np.ndarray],
    private: bool = False,
) -> Training:
    """xinv's own training step, or that of DP-SGD."""
    model = network.build(dtype)
    # A target reads images, a decoder the evidence of them
    names = ("image",) if network.classifier else ("prediction", "explanation")

    def reconstruction_loss(variables, batch, key):
        images, updates = model.train(variables, *(batch[name] for name in names), key=key)
        return jnp.mean((images - batch["image"]) ** 2, axis=(1, 2, 3)), updates

    loss = train.classifier_loss(model) if network.classifier else reconstruction_loss
    tx = optax.adam(1e-4)
    variables = jax.jit(model.init)(
        jax.random.key(0), *(jnp.asarray(data[name][:1]) for name in names)
    )
    state = train.State(np.int32(0), variables, tx.init(variables["params"]))
    if private:
        step = train.private_step(loss, tx, clip=1.0, noise=1.0)
    else:
        step = train.sgd_step(loss, tx)
    # Keep the arrays in use alone: all would be fed to the step
    used = (*names, "label" if network.classifier else "image")
    return Training(step, state, {name: data[name] for name in used})


def seeds(training: Training, count: int) -> Training:
    """As many trainings of one network in one program: each operation is vmapped over the seeds."""

    def step(state: Any, batch: Any, key: Any) -> tuple[Any, dict[str, jax.Array]]:
        return jax.vmap(training.step, (0, None, 0))(state, batch, jax.random.split(key, count))

    # Start all seeds alike: the speed does not depend on values
    stacked = jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf)] * count), training.state)
    return Training(step, stacked, training.data)


def several(name: str, dtype: str, training: Training, count: int, how: Bench) -> Row:
    """Seeds in one program beside as many in turn."""
    alone = stepping(training, how.batch_size)
    together = seeds(training, count)

    def in_turn(steps: int) -> None:
        for _ in range(count):
            alone(steps)

    runs = {"vmap": stepping(together, how.batch_size), "loop": in_turn}
    seconds = timed(runs, how.rounds, how.steps)
    rates = {}
    for kind, value in seconds.items():
        rates[kind] = count * how.steps / value
    needs = program(together, how.batch_size)
    return Row(
        f"{count} seeds of {name}, vmapped",
        dtype,
        "steps/s",
        rates["vmap"],
        mib=needs.mib,
        compile=needs.seconds,
        note=f"one after another {rates['loop']:.1f} steps/s, ratio"
        f" {rates['vmap'] / rates['loop']:.2f}",
    )


def stepping(training: Training, batch_size: int) -> Run:
    """Steps over the data again and again, dispatched as xinv's training loop does."""
    data = dict(training.data)
    runner = parallel.runner(training.step, data)
    state = parallel.replicate(training.state)
    key = parallel.per_device(jax.random.key(1))

    def start(steps: int) -> None:
        nonlocal state
        # Wrap around the data: it may have fewer batches
        order = np.arange(steps * batch_size).reshape(steps, batch_size) % parallel.length(data)
        for batch in runner.feed(order):
            state, _ = runner.advance(state, batch, key)
        # Wait for the last step: dispatch is asynchronous
        jax.block_until_ready(state)

    return start
