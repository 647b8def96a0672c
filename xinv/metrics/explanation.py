"""Utility of a released explanation: its distance from the original, and its faithfulness.

Each factory returns `fn(truth, guess) -> float32 [N]`. `truth` is the defender's knowledge,
{"image": [N,H,W,C], "explanation": the original maps e [N,h,w,c], "label": the explained classes,
int [N]}; `guess` is the released maps ê [N,h,w,c], of the same shape as e. A pixel's importance is
the mean of its map's channels, signs kept. `apply`, `embed` and `variables` are the target's: users
put its explanations to use on the target. A function with a bound network is a pytree whose leaves
are its variables, as in `recognition`.
"""

import functools
from collections.abc import Callable, Mapping

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import rankdata
from jax.tree_util import Partial

from xinv.images import as_float
from xinv.metrics.recognition import Embed, deepsim
from xinv.numbers import is_number
from xinv.types import Apply, Array, InputError, Key, Metric, Variables

Truth = Mapping[str, Array]
Baseline = float | tuple[float, ...] | str
"""Value of a removed pixel: one number, one per channel, or "blur" for the blurred image."""

Release = Callable[[Array, Array, Key], jax.Array]
"""`release(images[N,H,W,C] in [0,1], labels[N], keys[N]) -> released maps [N,h,w,c]`; a pytree."""

BLUR_SIGMA, BLUR_WINDOW = 5.0, 11
"""Pixels, of the canvas for insertion in the released code of Petsiuk 2018."""

LARGEST = 2**21
"""Pixels in a network at once, beyond those of the batch: 1 GiB per layer of 128 channels."""


@functools.cache
def distortion() -> Metric:
    """Returns the map's mean squared perturbation (Jeong 2022, Table 3).

    It is in the square of the map's unit; 0 for equal maps.
    """

    def fn(truth: Truth, guess: Array) -> jax.Array:
        e, released = _maps(truth, guess)
        return jnp.square(e - released).mean(axis=(1, 2, 3))

    return fn


def masked_deepsim(embed: Embed, variables: Variables) -> Metric:
    """Returns DeePSiM of x⊙e against x⊙ê in the target's features (Jeong 2022, section 5.3.2).

    It is in [0,1], and meant for maps on a scale of [0,1]; they pass through unclipped. A map with
    the image's channels masks each by itself, any other masks all channels by the mean of its own;
    smaller maps are resized linearly. DeePSiM is the cosine of `recognition.deepsim`.

    Args:
      embed, variables: the target's penultimate features.
    """
    return Partial(_masked_deepsim(embed), variables)


@functools.cache
def spearman() -> Metric:
    """Returns Spearman's rank correlation of the two maps' values, in [−1,1]; ties share a rank.

    It is 1 for equal maps, and 0 if one map alone is constant, since it orders nothing.
    """

    def fn(truth: Truth, guess: Array) -> jax.Array:
        # Pearson's correlation of the ranks
        e, released = (jax.vmap(rankdata)(_flat(maps)) for maps in _maps(truth, guess))
        e, released = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in (e, released))
        # A constant map has no ranks to compare: divide by 1
        scale = jnp.linalg.norm(e, axis=-1) * jnp.linalg.norm(released, axis=-1)
        correlation = (e * released).sum(axis=-1) / jnp.where(scale == 0, 1, scale)
        return jnp.where((e == released).all(axis=-1), 1.0, correlation.clip(-1, 1))

    return fn


@functools.cache
def top_overlap(share: float = 0.1) -> Metric:
    """Returns the intersection over union of the two maps' most important pixels, in [0,1].

    Args:
      share: of the map's pixels, rounded, at least one. Of equally important pixels the upper left
        ones come first.

    Raises:
      InputError: `share` is not in (0,1].
    """
    if not 0 < share <= 1:
        raise InputError(
            f"top_overlap share {share} is not allowed: give a number above 0, at most 1"
        )

    def fn(truth: Truth, guess: Array) -> jax.Array:
        e, released = (_order(_importance(maps)) for maps in _maps(truth, guess))
        count = max(1, round(share * e.shape[1]))
        both = ((e < count) & (released < count)).sum(axis=-1)
        # Both sets have `count` pixels, so the union follows from the intersection
        return both / (2 * count - both)

    return fn


def deletion(
    apply: Apply,
    variables: Variables,
    steps: int = 16,
    baseline: Baseline = 0.0,
) -> Metric:
    """Returns the area under the label's probability as important pixels go (Petsiuk 2018).

    It is in [0,1]; a faithful map has a small one. The released map gives the order, most important
    pixels first. The curve runs from the image to the baseline over the share of removed pixels, by
    the trapezoidal rule. Maps of another size are resized linearly; of equally important pixels the
    upper left ones go first. With the original map as `guess` it is the original's area.

    Args:
      apply, variables: the target's.
      steps: removals of equally many pixels.
      baseline: value of a removed pixel.

    Raises:
      InputError: fewer than one step, or a baseline that does not fit these images.

    Cost: `steps + 1` forward passes per image.
    """
    return Partial(
        _area(
            apply,
            _at_least_one("deletion", "steps", steps),
            baseline,
            False,
        ),
        variables,
    )


def insertion(
    apply: Apply,
    variables: Variables,
    steps: int = 16,
    baseline: Baseline = "blur",
) -> Metric:
    """Returns the area under the label's probability as important pixels come (Petsiuk 2018).

    It is in [0,1]; a faithful map has a large one. The curve runs from the baseline to the image;
    all else is as in `deletion`.

    Args:
      apply, variables: the target's.
      steps: insertions of equally many pixels.
      baseline: value of a pixel before its insertion.

    Raises:
      InputError: fewer than one step, or a baseline that does not fit these images.
    """
    return Partial(
        _area(
            apply,
            _at_least_one("insertion", "steps", steps),
            baseline,
            True,
        ),
        variables,
    )


def max_sensitivity(
    release: Release,
    radius: float = 0.02,
    samples: int = 10,
    seed: int = 0,
) -> Metric:
    """Returns max over δ of ‖Φ(x+δ) − ê‖ / ‖ê‖, with ê = Φ(x) the released map.

    Max-sensitivity (Yeh 2019, Eq. 2), relative to the map's size as in captum; 0 for a map
    independent of x. Each δ is uniform in [−radius, radius] per value, and x + δ is clipped to
    images. The same draws serve every image. A random release counts its own noise, since Φ(x+δ)
    draws anew. A zero map is divided by 1.

    Args:
      release: Φ, the service's release for an image and a class; a pytree.
      radius: largest change of a value of the image.
      samples: the number of δ.
      seed: of the draws.

    Raises:
      InputError: a negative radius, or no sample.

    Cost: `samples` releases per image.
    """
    # A radius of 0 measures the noise of a random release alone
    if not (is_number(radius) and radius >= 0):
        raise InputError(
            f"max_sensitivity radius {radius} is not allowed: give a number of at least 0"
        )
    return Partial(
        _max_sensitivity(
            radius,
            _at_least_one("max_sensitivity", "samples", samples),
            seed,
        ),
        release,
    )


@functools.cache
def _masked_deepsim(embed: Embed) -> Callable[..., jax.Array]:
    def fn(variables: Variables, truth: Truth, guess: Array) -> jax.Array:
        x = as_float(truth["image"])
        e, released = (_mask(maps, x.shape) for maps in _maps(truth, guess))
        return deepsim(embed, variables)(x * e, x * released)

    return fn


@functools.cache
def _area(
    apply: Apply,
    steps: int,
    baseline: Baseline,
    inserts: bool,
) -> Callable[..., jax.Array]:
    def fn(variables: Variables, truth: Truth, guess: Array) -> jax.Array:
        # Each pixel has a place in the order; a step switches all places before its count
        x, (_, released) = as_float(truth["image"]), _maps(truth, guess)
        start, end = (_canvas(x, baseline), x) if inserts else (x, _canvas(x, baseline))
        order = _order(_importance(resize(released, x.shape[1:3]))).reshape(x.shape[:3])
        pixels = x.shape[1] * x.shape[2]
        # Both ends belong to the curve
        counts = np.linspace(0, pixels, steps + 1).round().astype(np.int32)

        # One forward pass per point of the curve
        def probability(count: jax.Array) -> jax.Array:
            images = jnp.where((order < count)[..., None], end, start)
            return jax.nn.softmax(apply(variables, images))[jnp.arange(len(x)), truth["label"]]

        return jnp.trapezoid(
            _each(probability, counts, x),
            counts[:, None] / pixels,
            axis=0,
        )

    return fn


@functools.cache
def _max_sensitivity(
    radius: float,
    samples: int,
    seed: int,
) -> Callable[..., jax.Array]:
    def fn(release: Release, truth: Truth, guess: Array) -> jax.Array:
        x, (_, released) = as_float(truth["image"]), _maps(truth, guess)
        labels = jnp.asarray(truth["label"])
        # Change relative to the released map's norm
        size = jnp.linalg.norm(_flat(released), axis=-1)

        def moved(key: Key) -> jax.Array:
            # One draw serves all images, so that an image does not depend on its neighbours
            for_noise, for_release = jax.random.split(key)
            noise = jax.random.uniform(for_noise, x.shape[1:], minval=-radius, maxval=radius)
            near = jnp.clip(x + noise[None], 0, 1)
            again = release(
                near,
                labels,
                jnp.broadcast_to(for_release, labels.shape),
            )
            return jnp.linalg.norm(_flat(again - released), axis=-1)

        # A release costs about four forward passes
        largest = _each(moved, jax.random.split(jax.random.key(seed), samples), x, passes=4).max(
            axis=0
        )
        return largest / jnp.where(size == 0, 1, size)

    return fn


def _each(fn: Callable, items: Array, x: jax.Array, passes: int = 1) -> jax.Array:
    """Maps `fn` over items, [S,N], as many at once as `LARGEST` allows.

    Args:
      fn: of one item.
      items: [S,...].
      x: the images of the batch.
      passes: cost of an item, in forward passes of x.
    """
    # Bound the memory: a vmap over all items holds all their activations
    at_once = max(1, LARGEST // (passes * x[..., 0].size))
    if at_once >= len(items):
        return jax.vmap(fn)(items)
    return jax.lax.map(fn, items, batch_size=at_once)


def resize(maps: Array, size: tuple[int, ...]) -> jax.Array:
    """Resizes maps [N,h,w,c] linearly to the height and width `size`; equal sizes stay the same."""
    return jax.image.resize(maps, (len(maps), *size, maps.shape[-1]), "linear")


def _maps(truth: Truth, guess: Array) -> tuple[jax.Array, jax.Array]:
    """Returns original and released maps; raises InputError if their shapes differ.

    Without the check broadcasting would compare different shapes.
    """
    original = truth["explanation"]
    if original.shape != guess.shape or guess.ndim != 4:
        raise InputError(
            f"maps of shapes {original.shape} and {guess.shape} are not comparable: give two"
            " [N,h,w,c]"
        )
    return jnp.asarray(original), jnp.asarray(guess)


def _mask(maps: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns maps [N,h,w,c] as factors of images of `shape` [N,H,W,C]."""
    # Without the image's channels, one factor serves all of them
    maps = maps if maps.shape[-1] == shape[-1] else maps.mean(axis=-1, keepdims=True)
    return resize(maps, shape[1:3])


def _importance(maps: jax.Array) -> jax.Array:
    """Returns the importance of each pixel, [N,h·w]."""
    return _flat(maps.mean(axis=-1))


def _order(importance: jax.Array) -> jax.Array:
    """Returns each pixel's place from the most important one, 0, int [N,P]; ties by position."""
    # The first sort gives the pixel of each place, the second its inverse
    return jnp.argsort(jnp.argsort(-importance, axis=-1, stable=True), axis=-1)


def _flat(maps: jax.Array) -> jax.Array:
    return maps.reshape(len(maps), -1)


def _canvas(x: jax.Array, baseline: Baseline) -> jax.Array:
    """Returns the images [N,H,W,C] with every pixel removed."""
    if baseline == "blur":
        return dm_pix.gaussian_blur(x, BLUR_SIGMA, BLUR_WINDOW)
    # One value for all channels, or one for each
    if isinstance(baseline, str) or np.size(baseline) not in (1, x.shape[-1]):
        raise InputError(
            f"baseline {baseline!r} is not allowed: give a number, {x.shape[-1]} of them, or 'blur'"
        )
    return jnp.broadcast_to(jnp.asarray(baseline, x.dtype), x.shape)


def _at_least_one(metric: str, name: str, value: int) -> int:
    if value < 1:
        raise InputError(f"{metric} {name} {value} is not allowed: give at least 1")
    return value
