"""ProtoDash: an image explained by weighted prototypes (Gurumoorthy et al. 2019, algorithm 2)."""

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
    """The weighted mean of the prototypes picked by ProtoDash for an image.

    Candidates are the reference images predicted as the label, or all of them if there is none.
    They are picked one after another, each time with the best non-negative weights w, to bring
    sum_j w_j k(., prototype_j) closest to k(., image) in the kernel's space. Papers leave the step
    from prototypes to a map open: here it is sum_j w_j prototype_j / sum_j w_j. The model enters
    through its predictions on the reference set.

    Args:
      reference: images [R,H,W,C], uint8 or float in [0,1].
      prototypes: how many to pick.
      sigma: width of the Gaussian kernel exp(-|a - b|^2 / 2 sigma^2), in Euclidean distance between
        whole images. Only ratios of weights matter, so the kernel is scaled and no width
        underflows. None is 2.
      kernel: "gaussian" or "linear", the inner product of the pixels (aix360's "Gaussian" and
        "other"); the linear kernel has no sigma.

    Returns:
      An explainer with a map [H,W,C], in intensity; zero if no prototype has a positive weight. It
      is a `jax.tree_util.Partial` with the reference as its array: `batch` compiles once for all
      references of one shape.

    Raises:
      InputError: an option outside these, or images of another shape than the reference's.

    Cost: R forward passes per batch of maps, none per map; R x prototypes
    kernel evaluations per map.
    """
    # The reference becomes float in [0,1], as the model reads it.
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
    """Makes the explainer as a function of its reference too, one object per set of options."""

    def explain(
        reference: Array,
        apply: Apply,
        variables: Variables,
        image: Array,
        label: Array,
        key: Key,
    ) -> jax.Array:
        # Two classes at least: with one, every image is predicted as the label.
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
        # Candidates: images predicted as the label, or all if none is.
        logits = predict(apply, variables, lambda _, row: row, (), reference)
        same = jnp.argmax(logits, -1) == label
        allowed = same | ~same.any()
        # Pick prototypes among whole images as vectors.
        points = reference.reshape(len(reference), -1)
        chosen, weights = select(
            KERNELS[kernel],
            points,
            image.reshape(-1),
            allowed,
            prototypes,
            sigma,
        )
        # Without a positive weight the map is zero, not 0/0.
        total = weights.sum()
        mean = jnp.tensordot(
            weights / jnp.where(total > 0, total, 1),
            reference[chosen],
            1,
        )
        # NaN logits predict no class.
        return door.marked(mean, logits)

    return explain


def select(
    kernel,
    points: jax.Array,
    target: jax.Array,
    allowed: jax.Array,
    prototypes: int,
    sigma: float,
) -> tuple[jax.Array, jax.Array]:
    """Picks prototypes greedily, with the best non-negative weights after each pick.

    Args:
      kernel: `(points [R,D], target [D], sigma)` -> logarithm and sign [R] of its values.
      points: [R,D], the candidates.
      target: [D], the image to represent.
      allowed: bool [R].
      prototypes: how many to pick, m.
      sigma: of the kernel.

    Returns:
      indices [m] into `points` and weights [m], up to one common factor; weight 0
      for picks without a gain.
    """
    points, target = jnp.asarray(points), jnp.asarray(target)
    # Relative to the largest value among the candidates: a narrow kernel would underflow.
    logs, sign = kernel(points, target, sigma)
    scale = jnp.where(allowed, logs, -jnp.inf).max()
    likeness = sign * jnp.exp(logs - jnp.where(jnp.isfinite(scale), scale, 0))
    norms = jax.vmap(lambda point: _value(kernel, point[None], point, sigma)[0])(points)

    def pick(j: int, carry: tuple) -> tuple:
        chosen, weights, columns = carry
        # The objective's gradient with respect to each candidate's weight (algorithm 2).
        gradient = likeness - columns @ weights
        # Twice the gain of a first prototype, to choose the best single one.
        first = jnp.sign(gradient) * gradient**2 / jnp.maximum(norms, 1e-30)
        open_ = allowed & ~(chosen[:, None] == jnp.arange(len(points))).any(0)
        best = jnp.argmax(
            jnp.where(
                open_,
                jnp.where(j == 0, first, gradient),
                -jnp.inf,
            )
        )
        # Without a positive gradient no weight would help: the place stays empty.
        useful = open_[best] & (gradient[best] > 0)
        chosen = chosen.at[j].set(jnp.where(useful, best, -1))
        columns = columns.at[:, j].set(
            jnp.where(useful, _value(kernel, points, points[best], sigma), 0)
        )
        # Fit the weights of all picks anew; empty places have zeros, and so weight 0.
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
    """The kernel between each of `points` [R,D] and `target` [D], without scaling."""
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
    """Logarithm and sign of the inner product of each of `points` [R,D] and `target` [D]."""
    product = jnp.matmul(points, target, precision="highest")
    return jnp.log(jnp.abs(product)), jnp.sign(product)


KERNELS = {"gaussian": _gaussian, "linear": _linear}
