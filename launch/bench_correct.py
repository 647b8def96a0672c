"""Compares what a device computes with float64 on the CPU: explanations and a training step.

The reference is Zhao's MNIST target in plain JAX, as the formulas of its layers: it shares neither
the model's code nor its precision.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from bench_networks import CLASSES, examples
from bench_table import FAILED, Row
from jax.ad_checkpoint import checkpoint_name

from xinv import explain, models, parallel, train
from xinv.types import Explainer

TOLERANCES = {"highest": 2e-3, "default": 0.1}
"""Largest relative error, |difference| / |reference| over all elements, by precision of products.

Where the input of a ReLU or max-pool is nearer to its kink than the rounding error, another side
may be chosen, and the error is about the root of the share of those inputs. Of the gradient with
operands rounded to TF32, the default on NVIDIA, it is 0.05; float32 rounds 2¹³ times finer.
"""
METHODS: dict[str, Explainer] = {
    "gradient": explain.gradient(),
    "LRP, epsilon rule": explain.lrp("epsilon"),
    "Grad-CAM": explain.gradcam(),
}


def run(batch_size: int, width: float) -> Iterator[Row]:
    """Relative errors of the gradient, LRP, Grad-CAM and a step of gradient descent."""
    model = models.cnn(CLASSES, width=width)
    data = examples(batch_size)
    start = jax.jit(model.init)(jax.random.key(0), data["image"][:1])
    variables = jax.device_get(start)
    # Compute the reference once: it does not depend on the precision
    wanted = _references(variables, data)
    for precision in TOLERANCES:
        with jax.default_matmul_precision(None if precision == "default" else precision):
            for name, method in METHODS.items():
                labels = data["label"]
                key = jax.random.key(1)
                found = explain.batch(method, model.apply, start, data["image"], labels, key)
                yield _row(name, precision, found, wanted[name])
            found = _step(model, variables, data)
            yield _row("training step", precision, found, wanted["training step"])


def _row(name: str, precision: str, found: np.ndarray, wanted: np.ndarray) -> Row:
    error = float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
    most = TOLERANCES[precision]
    verdict = "holds" if error <= most else FAILED  # NaN fails too
    note = f"against float64 on the CPU, at most {most:g}: {verdict}"
    return Row(name, f"float32, {precision}", "error", error, note=note)


def _references(variables: Any, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Maps [N,h,w,c] of each method, and the changed parameters as one vector, in float64."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        exact = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
        images = jnp.asarray(data["image"], jnp.float64)
        labels = jnp.asarray(data["label"])
        found, gradient = jax.jit(_exactly)(exact, images, labels, jax.random.key(1))
        # With plain gradient descent at rate 1 the change is the gradient
        return jax.device_get(found) | {"training step": -_vector(gradient)}


def _exactly(
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
) -> tuple[dict[str, jax.Array], Any]:
    """Returns the maps of each method, and the gradient of the mean cross-entropy."""
    maps = {}
    for name, method in METHODS.items():
        one = functools.partial(method, network)
        maps[name] = jax.vmap(one, (None, 0, 0, None))(variables, images, labels, key)

    def loss(parameters: Any) -> jax.Array:
        logits = network({"params": parameters}, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return maps, jax.grad(loss)(variables["params"])


def network(variables: Any, images: jax.Array) -> jax.Array:
    """Logits [N,K] of Zhao's target, in the precision of its arguments."""
    layers = variables["params"]["layers"]
    x = images
    names = sorted(layers, key=lambda name: int(name.lstrip("convf")))
    convolutions = [name for name in names if name.startswith("conv")]
    numbers = ("NHWC", "HWIO", "NHWC")
    # Each is followed by its bias, ReLU and max-pool of 2×2
    for name in convolutions:
        kernel = layers[name]["kernel"]
        bias = layers[name]["bias"]
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)
        x = jax.nn.relu(x + bias)
        window = (1, 2, 2, 1)
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
    # Mark the map of Grad-CAM by the name known to xinv
    x = checkpoint_name(x, "cam").reshape(len(x), -1)
    hidden, last = names[len(convolutions) :]
    x = jax.nn.relu(x @ layers[hidden]["kernel"] + layers[hidden]["bias"])
    return x @ layers[last]["kernel"] + layers[last]["bias"]


def _step(model: Any, variables: Any, data: dict[str, np.ndarray]) -> np.ndarray:
    """The change of all parameters by xinv's own step, over all devices."""
    tx = train.optimizer(train.Recipe(optimizer="sgd", learning_rate=1.0, b1=0.0), 1)
    state = train.State(np.int32(0), variables, tx.init(variables["params"]))
    # A function of its own: a compiled step would keep the precision of the first call
    loss = train.classifier_loss(model)
    once: Callable[..., Any] = lambda *inputs: train.sgd_step(loss, tx)(*inputs)
    batch = {name: data[name] for name in ("image", "label")}
    key = parallel.per_device(jax.random.key(1))
    after, _ = parallel.pmap_step(once)(parallel.replicate(state), parallel.shard(batch), key)
    return _vector(after.variables["params"]) - _vector(variables["params"])


def _vector(tree: Any) -> np.ndarray:
    leaves = []
    for leaf in jax.tree.leaves(tree):
        leaves.append(np.asarray(leaf, np.float64).ravel())
    return np.concatenate(leaves)
