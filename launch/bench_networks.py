"""The networks of Zhao's audit of MNIST at the paper's width, for the benches of training steps."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from xinv import models
from xinv.models.cnn import table as cnn_table
from xinv.models.decoder import decoder_table, encoder_table
from xinv.models.table import Layer, upsampled

SHAPE, CLASSES = (32, 32, 1), 10


class Network(NamedTuple):
    """A network of the bench: its builder and its tables, the encoder's being empty without one."""

    build: Callable[[str], Any]
    decoder: tuple[Layer, ...]
    encoder: tuple[Layer, ...] = ()
    classifier: bool = False


def networks(width: float = 1.0) -> dict[str, Network]:
    """Zhao's MNIST target, and his decoders without and with the explanation."""
    encoder = "flatten_unet"
    rows = decoder_table(SHAPE, width)
    return {
        "target": Network(
            lambda dtype: models.cnn(CLASSES, width=width, dtype=dtype),
            cnn_table(CLASSES, (128, 256), 512, width),
            (),
            True,
        ),
        "prediction only": Network(
            lambda dtype: models.decoder(SHAPE, width=width, dtype=dtype), rows
        ),
        encoder: Network(
            lambda dtype: models.decoder(SHAPE, encoder, width, dtype),
            rows,
            encoder_table(SHAPE, 32, width),
        ),
    }


NETWORKS = networks()


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


class Placed(NamedTuple):
    """A row of a table in place: what comes in, and the floating-point operations per image of a
    forward pass.
    """

    layer: Layer
    inputs: int
    operations: int


def _walk(table: tuple[Layer, ...], inputs: int, size: int, bypass: bool) -> Iterator[Placed]:
    for layer in table:
        # Find the size of the output: a dense layer leaves one pixel
        out = {"pool": size // 2, "upsample": upsampled(size, layer), "fc": 1}.get(
            layer.type, size * layer.repeat
        )
        # A bypass brings as many channels once more
        beside = inputs if layer.bypass and bypass else 0
        # A convolution of repeated pixels is counted as computed, before they are: see
        # `convolve_repeated`.
        products = (layer.kernel * size) ** 2 * inputs + (layer.kernel * out) ** 2 * beside
        # A dense layer reads every pixel
        inputs *= size**2 if layer.type == "fc" else 1
        yield Placed(layer, inputs + beside, 2 * products * layer.outputs)
        inputs = layer.outputs or inputs
        size = out


def rows_of(network: Network) -> tuple[list[Placed], list[Placed]]:
    """Of the encoder and of the rest."""
    if network.classifier:
        return [], list(_walk(network.decoder, SHAPE[2], SHAPE[0], False))
    # A decoder reads prediction, embedding and map as one vector
    vector = CLASSES
    if network.encoder:
        vector += network.encoder[-1].outputs + SHAPE[0] * SHAPE[1] * SHAPE[2]
    rest = _walk(network.decoder, vector, 1, bool(network.encoder))
    return list(_walk(network.encoder, SHAPE[2], SHAPE[0], False)), list(rest)


def forward_operations(network: Network) -> int:
    """Per image; a training step is counted as three of them (forward, and the gradients of inputs
    and kernels).
    """
    return sum(row.operations for rows in rows_of(network) for row in rows)
