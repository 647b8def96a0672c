"""The step of differentially private gradient descent, DP-SGD (Abadi et al. 2016, Algorithm 1).

Each example's gradient is clipped to an l2 norm of C; their sum gets Gaussian noise of standard
deviation σC and is divided by the batch size. An epoch reads each example at most once, in an order
that does not depend on the data, so a training is as many Gaussian mechanisms as epochs:
`metrics.privacy` has its ε. That holds for the weights alone. Losses on the way are not private,
nor is the noise if the seed is known.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from xinv import parallel
from xinv.train.step import Loss, State, split
from xinv.types import Batch, InputError, Key, Variables

_BYTES = 2**30
"""Gradients of examples that an accelerator holds at once."""
_STATISTICS = (
    "a training with noise needs examples that do not see each other, but the network keeps "
    "statistics of its batches: choose norm='group', or set clip and noise to 0"
)


@functools.lru_cache(64)
def private_step(
    loss: Loss,
    tx: optax.GradientTransformation,
    clip: float,
    noise: float,
) -> parallel.Step:
    """Returns the step of DP-SGD: clipped gradients of examples, with noise, through `tx`.

    The result does not depend on the number of devices. Gradients are made in parts of the batch:
    as many at once as fit 1 GiB, at least one, and on CPU one. Metrics are the mean "loss", and the
    share "clipped" of examples whose gradient was longer than `clip`.

    Args:
      loss: of examples; none of them may change that of another.
      tx: the optimizer.
      clip: bound C of the l2 norm of an example's gradient.
      noise: multiplier σ: the noise has a standard deviation of σC in the sum of gradients.
    """

    def step(state: State, batch: Batch, key: Key) -> tuple[State, dict[str, jax.Array]]:
        parameters, merge = split(state.variables)
        example_key, noise_key = jax.random.split(parallel.shared(key))
        size = parallel.length(batch)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(example_key, parallel.batch_positions(size))

        # Sum on this device in parts, and over the devices
        clipped = functools.partial(_clipped, _example_loss(loss, merge), clip, parameters)
        sums = _summed(clipped, _part(size, parameters), batch, keys)
        gradient, value, count = parallel.total(sums)

        # Add the noise once, after the sum: the key is that of all devices
        examples = size * parallel.total(1)
        gradient = jax.tree.map(jnp.add, gradient, _gaussian(noise_key, gradient, noise * clip))
        gradient = jax.tree.map(lambda leaf: leaf / examples, gradient)

        # Update
        change, opt_state = tx.update(gradient, state.opt_state, parameters)
        variables = merge(optax.apply_updates(parameters, change), {})
        metrics = {"loss": value / examples, "clipped": count / examples}
        return State(state.step + 1, variables, opt_state), metrics

    return step


def require_independent(variables: Variables, name: str) -> None:
    """Checks that a network keeps no statistics of its batches.

    Args:
      variables: of the network, or their shapes.
      name: of the training.

    Raises:
      InputError: it has variables beside "params", such as BatchNorm's averages.
    """
    if isinstance(variables, Mapping) and "params" in variables and len(variables) > 1:
        raise InputError(f"{name}: {_STATISTICS}")


def _clipped(
    loss: Callable[[Any, Batch, Key], jax.Array],
    clip: float,
    parameters: Any,
    batch: Batch,
    keys: Key,
) -> tuple[Any, jax.Array, jax.Array]:
    """Returns the sums over examples of clipped gradients, of losses, and of clipped examples."""
    differentiate = jax.vmap(jax.value_and_grad(loss), (None, 0, 0))
    losses, gradients = differentiate(parameters, batch, keys)
    total, count = optax.per_example_global_norm_clip(gradients, clip)
    return total, losses.sum(), count.astype(jnp.float32)


def _example_loss(
    loss: Loss,
    merge: Callable[[Any, Mapping[str, Any]], Variables],
) -> Callable[[Any, Batch, Key], jax.Array]:
    """Returns the loss of one example, as a function of the trained parameters."""

    def of_one(parameters: Any, example: Batch, key: Key) -> jax.Array:
        def alone(example: Batch, key: Key) -> jax.Array:
            batch = {name: leaf[None] for name, leaf in example.items()}
            losses, updates = loss(merge(parameters, {}), batch, key)
            # Statistics of a batch depend on all its examples
            if jax.tree.leaves(updates):
                raise InputError(_STATISTICS)
            return losses[0]

        return parallel.alone(alone)(example, key)

    return of_one


def _part(size: int, parameters: Any) -> int:
    """Returns how many examples' gradients to make at once: a divisor of `size`."""
    # Caches are small: all of a batch at once takes several times as long
    if jax.default_backend() == "cpu":
        return 1
    each = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(parameters))
    most = max(1, _BYTES // max(each, 1))
    return max(part for part in range(1, min(size, most) + 1) if size % part == 0)


def _summed(fn: Callable[..., Any], part: int, *arrays: Any) -> Any:
    """Returns the sum of `fn` over parts of the arrays [N,...], `part` rows each."""
    parts = jax.tree.map(lambda leaf: leaf.reshape(-1, part, *leaf.shape[1:]), arrays)

    def add(total: Any, rows: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, fn(*rows)), None

    # One program of `fn`, which takes long to compile
    one = jax.tree.map(lambda leaf: leaf[0], parts)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(fn, *one))
    total, _ = jax.lax.scan(add, zero, parts)
    return total


def _gaussian(key: Key, tree: Any, stdev: float) -> Any:
    """Returns independent Gaussian noise of the shapes of a tree."""
    # Drawn at once: a generator for each leaf takes twice as long to compile as all of the rest
    flat, unravel = ravel_pytree(tree)
    return unravel(stdev * jax.random.normal(key, flat.shape, flat.dtype))
