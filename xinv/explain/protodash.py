"""ProtoDash: an image explained by weighted prototypes from a reference set (Gurumoorthy 2019,
algorithm 2).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from xinv.explain import door
from xinv.explain.perturbation import linear
from xinv.explain.perturbation.predict import predict
from xinv.images import as_float
from xinv.numbers import described, is_count, is_number, is_one_of, optional
from xinv.space import Number, searched
from xinv.types import Apply, Array, Explainer, InputError, Key, Variables


@searched(sigma=Number(0.1, 3.0, log=True))
def protodash(
    reference: Array,
    prototypes: int = 5,
    sigma: float | None = None,
    kernel: str = "gaussian",
) -> Explainer:
    """The weighted mean of the prototypes that ProtoDash picks for an image.

    Of the reference images that the model predicts as the label (of all of them if there is none),
    those are picked, one after another and each time with the best non-negative weights w, that
    bring sum_j w_j k(., prototype_j) closest to k(., image) in the kernel's space. Papers leave
    open how prototypes become a map: here it is sum_j w_j prototype_j / sum_j w_j. The model enters
    through its predictions on the reference set.

    Args:
      reference: images [R,H,W,C], uint8 or float in [0,1].
      prototypes: how many to pick.
      sigma: width of the Gaussian kernel exp(-|a - b|^2 / 2 sigma^2), in Euclidean distance between
        whole images. As only ratios of weights matter, the kernel is scaled so that no width
        underflows. None is 2.
      kernel: "gaussian" or "linear", the inner product of the pixels (aix360's "Gaussian" and
        "other"); the linear kernel has no sigma.

    Returns:
      An explainer whose map is [H,W,C], in intensity; zero where no prototype has a positive
      weight. It is a `jax.tree_util.Partial` that holds the reference: `batch` compiles once for
      all references of one shape.

    Raises:
      InputError: an option outside these, or images of another shape than the reference's.

    Cost: R forward passes per batch of maps, none per map; R x prototypes kernel evaluations per
    map.
    """
    reference = np.asarray(as_float(door.images(reference)))
    if not is_count(prototypes, 1) or prototypes > len(reference):
        raise InputError(
            f"protodash picks 1 to R prototypes of a reference [R,H,W,C], not {prototypes!r} of"
            f" {reference.shape}"
        )
    if not is_one_of(kernel, KERNELS):
        raise InputError(f"protodash's kernel is {' or '.join(KERNELS)}, not {described(kernel)}")
    sigma = optional(
        "sigma",
        sigma,
        2.0,
        "protodash's Gaussian kernel",
        kernel == "gaussian",
    )
    if not is_number(sigma) or sigma <= 0:
        raise InputError(f"protodash's sigma is positive, not {described(sigma)}")
    return Partial(
        _explainer(
            int(prototypes),
            float(sigma),
            kernel,
        ),
        reference.astype(np.float32),
    )


@functools.cache
def _explainer(
    prototypes: int,
    sigma: float,
    kernel: str,
) -> Callable[..., jax.Array]:
    def explain(
        reference: Array,
        apply: Apply,
        variables: Variables,
        image: Array,
        label: Array,
        key: Key,
    ) -> jax.Array:
        chosen = door.checked(functools.partial(mean_of_chosen, reference), least=2)
        return chosen(apply, variables, image, label, key)

    def mean_of_chosen(
        reference: Array,
        apply: Apply,
        variables: Variables,
        image: Array,
        label: Array,
        key: Key,
    ) -> jax.Array:
        if image.shape != reference.shape[1:]:
            raise InputError(
                f"protodash's reference holds images {reference.shape[1:]}, the image is"
                f" {image.shape}"
            )
        reference = jnp.asarray(reference)
        logits = predict(apply, variables, lambda _, row: row, (), reference)
        same = jnp.argmax(logits, -1) == label
        allowed = same | ~same.any()
        points = reference.reshape(len(reference), -1)
        chosen, weights = select(
            KERNELS[kernel],
            points,
            image.reshape(-1),
            allowed,
            prototypes,
            sigma,
        )
        total = weights.sum()
        mean = jnp.tensordot(
            weights / jnp.where(total > 0, total, 1),
            reference[chosen],
            1,
        )
        return door.marked(mean, logits)  # NaN logits predict no class

    return explain


def select(
    kernel,
    points: jax.Array,
    target: jax.Array,
    allowed: jax.Array,
    prototypes: int,
    sigma: float,
) -> tuple[jax.Array, jax.Array]:
    """Indices [m] into `points` [R,D] and weights [m], up to one common factor; weight 0 where none
    would help.
    """
    points, target = jnp.asarray(points), jnp.asarray(target)
    logs, sign = kernel(points, target, sigma)
    scale = jnp.where(allowed, logs, -jnp.inf).max()
    likeness = sign * jnp.exp(logs - jnp.where(jnp.isfinite(scale), scale, 0))
    norms = jax.vmap(lambda point: _value(kernel, point[None], point, sigma)[0])(points)

    def pick(j: int, carry: tuple) -> tuple:
        chosen, weights, columns = carry
        gradient = likeness - columns @ weights
        first = (
            jnp.sign(gradient) * gradient**2 / jnp.maximum(norms, 1e-30)
        )  # twice the gain of a first prototype
        open_ = allowed & ~(chosen[:, None] == jnp.arange(len(points))).any(0)
        best = jnp.argmax(
            jnp.where(
                open_,
                jnp.where(j == 0, first, gradient),
                -jnp.inf,
            )
        )
        useful = open_[best] & (gradient[best] > 0)
        chosen = chosen.at[j].set(jnp.where(useful, best, -1))
        columns = columns.at[:, j].set(
            jnp.where(useful, _value(kernel, points, points[best], sigma), 0)
        )
        real = chosen >= 0
        gram = jnp.where(real[:, None] & real, columns[chosen], 0)
        return (
            chosen,
            linear.nonnegative(
                gram,
                jnp.where(
                    real,
                    likeness[chosen],
                    0,
                ),
            ),
            columns,
        )

    start = jnp.full(prototypes, -1), jnp.zeros(prototypes), jnp.zeros((len(points), prototypes))
    chosen, weights, _ = jax.lax.fori_loop(0, prototypes, pick, start)
    return jnp.maximum(chosen, 0), weights


def _value(kernel, points: jax.Array, target: jax.Array, sigma: float) -> jax.Array:
    logs, sign = kernel(points, target, sigma)
    return sign * jnp.exp(logs)


def _gaussian(
    points: jax.Array,
    target: jax.Array,
    sigma: float,
) -> tuple[jax.Array, jax.Array]:
    """Logarithm and sign of the kernel between each of `points` [R,D] and `target` [D]."""
    return -((points - target) ** 2).sum(-1) / (2 * sigma**2), jnp.ones(len(points))


def _linear(
    points: jax.Array,
    target: jax.Array,
    sigma: float,
) -> tuple[jax.Array, jax.Array]:
    product = jnp.matmul(points, target, precision="highest")
    return jnp.log(jnp.abs(product)), jnp.sign(product)


KERNELS = {"gaussian": _gaussian, "linear": _linear}
