"""`bench.py training`: see there."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from xinv import models, parallel, train
from xinv.models.cnn import table as cnn_table
from xinv.models.decoder import decoder_table, encoder_table
from xinv.models.table import Layer, upsampled

try:
    import torch
except ImportError:
    torch = None

SHAPE, CLASSES = (32, 32, 1), 10
Run = Callable[[int], None]
"""Runs that many training steps and waits for them."""


class Network(NamedTuple):
    """A network of the bench: its builder and its tables, the encoder's being empty without one."""

    build: Callable[[str], Any]
    decoder: tuple[Layer, ...]
    encoder: tuple[Layer, ...] = ()
    classifier: bool = False


NETWORKS = {
    "target": Network(
        lambda dtype: models.cnn(CLASSES, dtype=dtype),
        cnn_table(CLASSES, (128, 256), 512),
        (),
        True,
    ),
    "prediction only": Network(
        lambda dtype: models.decoder(SHAPE, dtype=dtype), decoder_table(SHAPE)
    ),
    "flatten_unet": Network(
        lambda dtype: models.decoder(SHAPE, "flatten_unet", dtype=dtype),
        decoder_table(SHAPE),
        encoder_table(SHAPE, 32),
    ),
}


def run(batch_size: int, rounds: int, steps: int | None) -> None:
    """Prints a table of images per second."""
    cpu = jax.default_backend() == "cpu"
    steps = steps or (2 if cpu else 128)
    print(
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}; batch {batch_size}, {rounds}"
        f" rounds of {steps} steps"
    )
    print(torch_settings())
    data = examples(4 * batch_size)
    for dtype in ("float32",) if cpu else ("float32", "bfloat16"):
        peak = matmul_rate(dtype, 2048 if cpu else 8192)
        print(f"{dtype}: a matrix product reaches {peak / 1e12:.2f} TFLOP/s")
        for name, network in NETWORKS.items():
            runs = {"xinv": _xinv(network, dtype, data, batch_size)}
            if network.classifier:
                runs["private"] = _xinv(network, dtype, data, batch_size, private=True)
            if torch:
                runs["torch"] = _torch(network, dtype, data, batch_size)
            rates = {
                key: batch_size * steps / seconds
                for key, seconds in timed(runs, rounds, steps).items()
            }
            fraction = rates["xinv"] * 3 * forward_operations(network) / peak
            versus = (
                f"  torch {rates['torch']:9.1f}  ratio {rates['xinv'] / rates['torch']:.2f}"
                if torch
                else ""
            )
            print(
                f"  {name:16s} images/s: xinv {rates['xinv']:9.1f}{versus}  ceiling {fraction:.0%}",
                flush=True,
            )
            if "private" in rates:
                share = rates["private"] / rates["xinv"]
                print(
                    f"  {'by DP-SGD':16s} images/s: xinv {rates['private']:9.1f}  {share:.2f} of"
                    " the plain step",
                    flush=True,
                )


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


def examples(count: int) -> dict[str, np.ndarray]:
    """Random images, labels, predictions and maps."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, count).astype(np.int32)
    return {
        "image": rng.random((count, *SHAPE), np.float32),
        "label": labels,
        "prediction": np.eye(CLASSES, dtype=np.float32)[labels],
        "explanation": rng.random((count, *SHAPE), np.float32),
    }


def matmul_rate(dtype: str, size: int) -> float:
    """FLOP/s of the fastest of ten large matrix products."""
    x = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    seconds = []
    for _ in range(10):
        begin = time.perf_counter()
        product(x, x).block_until_ready()
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / min(seconds)


def _xinv(
    network: Network,
    dtype: str,
    data: Mapping[str, np.ndarray],
    batch_size: int,
    private: bool = False,
) -> Run:
    """xinv's own training step, or that of DP-SGD, dispatched as its training loop does."""
    model = network.build(dtype)
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
    step = (
        train.private_step(loss, tx, clip=1.0, noise=1.0) if private else train.sgd_step(loss, tx)
    )
    return stepping(step, state, data, batch_size)


def stepping(
    step: parallel.Step, state: train.State, data: Mapping[str, np.ndarray], batch_size: int
) -> Run:
    """Steps over the data again and again, dispatched as xinv's training loop does."""
    runner = parallel.runner(step, dict(data))
    state, key = parallel.replicate(state), parallel.per_device(jax.random.key(1))

    def start(steps: int) -> None:
        nonlocal state
        order = np.arange(steps * batch_size).reshape(steps, batch_size) % parallel.length(
            dict(data)
        )
        for batch in runner.feed(order):
            state, _ = runner.advance(state, batch, key)
        jax.block_until_ready(state)

    return start


class Row(NamedTuple):
    """A row of a table in place: what comes in, and the floating-point operations per image of a
    forward pass.
    """

    layer: Layer
    inputs: int
    operations: int


def _walk(table: tuple[Layer, ...], inputs: int, size: int, bypass: bool) -> Iterator[Row]:
    for layer in table:
        out = {"pool": size // 2, "upsample": upsampled(size, layer), "fc": 1}.get(
            layer.type, size * layer.repeat
        )
        beside = inputs if layer.bypass and bypass else 0
        # A convolution of repeated pixels is counted as computed, before they are: see
        # `convolve_repeated`.
        products = (layer.kernel * size) ** 2 * inputs + (layer.kernel * out) ** 2 * beside
        inputs *= size**2 if layer.type == "fc" else 1
        yield Row(layer, inputs + beside, 2 * products * layer.outputs)
        inputs, size = layer.outputs or inputs, out


def _rows(network: Network) -> tuple[list[Row], list[Row]]:
    """Of the encoder and of the rest."""
    if network.classifier:
        return [], list(_walk(network.decoder, SHAPE[2], SHAPE[0], False))
    vector = CLASSES + (64 + SHAPE[0] * SHAPE[1] * SHAPE[2] if network.encoder else 0)
    rest = _walk(network.decoder, vector, 1, bool(network.encoder))
    return list(_walk(network.encoder, SHAPE[2], SHAPE[0], False)), list(rest)


def forward_operations(network: Network) -> int:
    """Per image; a training step is counted as three of them (forward, and the gradients of inputs
    and kernels).
    """
    return sum(row.operations for rows in _rows(network) for row in rows)


def torch_settings() -> str:
    """Sets PyTorch up as its users would for speed, and says so."""
    if torch is None:
        return "torch is not installed (pip install 'xinv[bench]'): xinv alone"
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    place = (
        "cuda: cudnn.benchmark, TF32 (as jax), channels_last"
        if torch.cuda.is_available()
        else "cpu"
    )
    return (
        f"torch {torch.__version__} on {place}, {torch.get_num_threads()} threads, eager, fused"
        " Adam"
    )


def _torch(network: Network, dtype: str, data: Mapping[str, np.ndarray], batch_size: int) -> Run:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = torch.channels_last if device == "cuda" else torch.contiguous_format
    module = torch_module(network).to(device, memory_format=layout)
    optimizer = torch.optim.Adam(module.parameters(), 1e-4, fused=True)
    functional = torch.nn.functional
    batches = torch_batches(data, batch_size, device)

    def start(steps: int) -> None:
        for batch in itertools.islice(batches, steps):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
                outputs = module(batch)
            answer = functional.cross_entropy if network.classifier else functional.mse_loss
            answer(outputs.float(), batch["label" if network.classifier else "image"]).backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return start


def torch_batches(
    data: Mapping[str, np.ndarray], batch_size: int, device: str
) -> Iterator[dict[str, Any]]:
    """The data, over and over, as PyTorch reads it; images and maps are NCHW."""
    placed = {
        name: torch.from_numpy(np.moveaxis(x, -1, 1).copy() if x.ndim == 4 else x)
        for name, x in data.items()
    }
    placed = {name: x.to(device) for name, x in placed.items()}
    placed["label"] = placed["label"].long()
    for begin in itertools.cycle(range(0, len(data["image"]), batch_size)):
        yield {name: x[begin : begin + batch_size] for name, x in placed.items()}


def torch_module(network: Network) -> Any:
    """The network as a PyTorch module of the same tables."""
    from torch import nn

    makers = {
        "conv": lambda row: nn.Conv2d(
            row.inputs, row.layer.outputs, row.layer.kernel, padding=row.layer.padding
        ),
        "pool": lambda row: nn.MaxPool2d(2),
        "fc": lambda row: nn.Linear(row.inputs, row.layer.outputs),
        "upsample": lambda row: nn.ConvTranspose2d(
            row.inputs, row.layer.outputs, row.layer.kernel, row.layer.stride, row.layer.padding
        ),
    }

    class Twin(nn.Module):
        def __init__(self):
            super().__init__()
            self.tables = _rows(network)
            self.parts = nn.ModuleList(
                nn.ModuleList(makers[row.layer.type](row) for row in t) for t in self.tables
            )

        def sequence(self, index, x, bypass):
            maps = {}
            for row, part in zip(self.tables[index], self.parts[index], strict=True):
                x = x.flatten(1) if row.layer.type == "fc" else x
                if row.layer.repeat > 1:
                    x = nn.functional.interpolate(x, scale_factor=row.layer.repeat)
                if row.layer.bypass and x.shape[2] in bypass:
                    x = torch.cat([x, bypass[x.shape[2]]], 1)
                x = part(x)
                x = nn.functional.relu(x) if row.layer.activation == "relu" else x
                if row.layer.type == "conv":
                    maps[x.shape[2]] = x
            return x, maps

        def forward(self, batch):
            if network.classifier:
                return self.sequence(1, batch["image"], {})[0]
            vector, maps = [batch["prediction"]], {}
            if network.encoder:
                embedding, maps = self.sequence(0, batch["explanation"], {})
                vector += [embedding, batch["explanation"].flatten(1)]
            return self.sequence(1, torch.cat(vector, 1)[:, :, None, None], maps)[0]

    return Twin()
