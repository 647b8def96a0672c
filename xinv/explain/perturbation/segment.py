"""Superpixels: an image [H,W,C] float in [0,1] as label map int32 [H,W], under jit and vmap.

The number of labels is static, because an array's shape must be: `count(height, width)` bounds it
from above. A label without pixels is a feature without effect.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import skimage.segmentation
from skimage.util import regular_grid

from xinv.numbers import is_count, is_number
from xinv.plugins import cached
from xinv.types import Array, InputError

Labels = tuple[tuple[int, ...], ...] | np.ndarray


class Segmenter(NamedTuple):
    """A way to cut an image into superpixels.

    Attributes:
      count: `(height, width) -> int`, one more than the largest label.
      labels: `(image[H,W,C]) -> int32 [H,W]`.
    """

    count: Callable[[int, int], int]
    labels: Callable[[Array], jax.Array]


def superpixels(
    segmentation: str | Labels | Segmenter,
    segments: int | None,
    compactness: float | None,
    sigma: float | None,
    default: int = 50,
) -> Segmenter:
    """Makes the segmenter named by an explainer's options.

    Args:
      segmentation: "slic", "felzenszwalb", "quickshift", a label map or a Segmenter.
      segments: number of superpixels, for the three algorithms; None is `default`.
      compactness: for SLIC alone; None is 10.
      sigma: width in pixels of the Gaussian blur before the segmentation;
        None is the algorithm's own.
      default: number of superpixels if `segments` is None.

    Raises:
      InputError: an unknown name, or an option that the choice does not have.
    """
    if not isinstance(segmentation, str):
        # An option without effect is refused, not ignored.
        for name, value in {
            "segments": segments,
            "compactness": compactness,
            "sigma": sigma,
        }.items():
            if value is not None:
                raise InputError(
                    f"{name} is {value!r} but a given segmentation takes none: leave it out"
                )
        if isinstance(segmentation, Segmenter):
            return segmentation
        return fixed(segmentation)
    segments = default if segments is None else segments
    options = {} if sigma is None else {"sigma": sigma}
    if segmentation == "slic":
        return slic(
            segments,
            10.0 if compactness is None else compactness,
            **options,
        )
    if compactness is not None:
        raise InputError(
            f"compactness {compactness!r} belongs to segmentation 'slic', not {segmentation!r}"
        )
    if segmentation == "felzenszwalb":
        return felzenszwalb(segments, **options)
    if segmentation == "quickshift":
        return quickshift(segments, **options)
    raise InputError(
        f"unknown segmentation {segmentation!r}: choose slic, felzenszwalb, quickshift or a"
        " label map"
    )


@cached
def fixed(labels: Labels) -> Segmenter:
    """Uses one label map [H,W] (an array or nested tuples, from 0) for every image."""
    # NumPy refuses nested tuples of unequal lengths.
    try:
        array = np.asarray(labels)
    except ValueError as error:
        raise InputError("a label map is [H,W], but its rows differ in length") from error
    if array.ndim != 2 or array.dtype.kind not in "iu" or array.size == 0 or array.min() < 0:
        raise InputError(
            f"a label map is [H,W] of integers from 0, not {array.dtype} {list(array.shape)}"
        )
    array = array.astype(np.int32)

    def given(image: Array) -> jax.Array:
        if array.shape != image.shape[:2]:
            raise InputError(f"the label map is {array.shape}, the image {image.shape[:2]}")
        return jnp.asarray(array)

    return Segmenter(lambda height, width: int(array.max()) + 1, given)


@cached
def felzenszwalb(
    segments: int = 50,
    scale: float = 1.0,
    sigma: float = 0.8,
    min_size: int = 20,
) -> Segmenter:
    """scikit-image's felzenszwalb, on the host.

    `scale` doubles until there are at most `segments` superpixels.
    """

    def cut(image: np.ndarray, doubling: int) -> np.ndarray:
        return skimage.segmentation.felzenszwalb(
            image,
            scale * 2.0**doubling,
            sigma,
            min_size,
        )

    # Checked here, since a callback's error would surface late and wrapped.
    _check(
        "felzenszwalb",
        {"segments": segments, "min_size": min_size},
        {"scale": scale},
        sigma,
    )
    return _on_host("felzenszwalb", cut, segments)


@cached
def quickshift(
    segments: int = 50,
    kernel_size: float = 5.0,
    max_dist: float = 10.0,
    sigma: float = 0.0,
) -> Segmenter:
    """scikit-image's quickshift, on the host.

    Both lengths double until there are at most `segments` superpixels.
    """

    def cut(image: np.ndarray, doubling: int) -> np.ndarray:
        # Longer lengths join more pixels into one superpixel.
        lengths = {"kernel_size": kernel_size * 2.0**doubling, "max_dist": max_dist * 2.0**doubling}
        return skimage.segmentation.quickshift(
            image,
            convert2lab=image.shape[-1] == 3,
            sigma=sigma,
            **lengths,
        )

    _check(
        "quickshift",
        {"segments": segments},
        {"kernel_size": kernel_size, "max_dist": max_dist},
        sigma,
    )
    return _on_host("quickshift", cut, segments)


def _on_host(
    name: str,
    cut: Callable[[np.ndarray, int], np.ndarray],
    segments: int,
) -> Segmenter:
    """Makes a segmenter of `cut(image, doubling)`, with coarser cuts until the labels fit."""

    def at_most(image: np.ndarray) -> np.ndarray:
        # The number of labels must be static, so a cut with too many is made coarser.
        for doubling in range(64):
            labels = cut(image, doubling)
            if labels.max() < segments:
                return labels.astype(np.int32)
        raise InputError(f"{name} finds more than {segments} segments at every scale")

    def host(images: Any) -> np.ndarray:
        # vmap hands over leading axes; scikit-image computes in float64.
        images = np.asarray(images, np.float64)
        flat = []
        for image in images.reshape(-1, *images.shape[-3:]):
            flat.append(at_most(image))
        return np.stack(flat).reshape(images.shape[:-1])

    def labels(image: Array) -> jax.Array:
        result = jax.ShapeDtypeStruct(image.shape[:2], jnp.int32)
        return jax.pure_callback(host, result, image, vmap_method="broadcast_all")

    return Segmenter(lambda height, width: segments, labels)


@cached
def slic(
    segments: int = 50,
    compactness: float = 10.0,
    sigma: float = 0.0,
    iterations: int = 10,
) -> Segmenter:
    """SLIC (Achanta et al. 2012), compiled, with scikit-image's grid, Lab colours and window.

    As there, `segments` is approximate: it fixes the grid of initial centres. Every superpixel is
    connected and has at least half the average size; unlike there, one centre never gives several
    superpixels, so the grid bounds `count`.
    """
    _check(
        "slic",
        {"segments": segments, "iterations": iterations},
        {"compactness": compactness},
        sigma,
    )

    def labels(image: Array) -> jax.Array:
        height, width, _ = image.shape
        # k-means from a grid of centres, then one connected region per label.
        centres, steps = _grid(height, width, segments)
        colours = smooth(_colours(image), sigma) / compactness
        assigned = _cluster(colours, centres, steps, iterations)
        return _connect(
            assigned,
            len(centres),
            int(0.5 * height * width / len(centres)),
        )

    return Segmenter(lambda height, width: len(_grid(height, width, segments)[0]), labels)


def _check(
    name: str,
    counts: dict[str, int],
    sizes: dict[str, float],
    sigma: float,
) -> None:
    """Raises InputError for the first option of an algorithm that is out of range."""
    for option, value in (counts | sizes).items():
        if not is_number(value) or value <= 0:
            raise InputError(f"{name}'s {option} is positive, not {value!r}")
    for option, value in counts.items():
        if not is_count(value, 1):
            raise InputError(f"{name}'s {option} is a whole number, not {value!r}")
    if not is_number(sigma) or sigma < 0:
        raise InputError(f"{name}'s sigma is at least 0, not {sigma!r}")


def _grid(height: int, width: int, segments: int) -> tuple[np.ndarray, np.ndarray]:
    """Initial centres [M,2] and the steps [2] between them."""
    # scikit-image's grid of about `segments` points.
    slices = regular_grid((1, height, width), segments)[1:]
    axes = []
    for n, cut in zip((height, width), slices, strict=True):
        axes.append(np.arange(n)[cut])
    centres = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    return centres.astype(np.float32), np.array([cut.step or 1 for cut in slices], np.float32)


def _colours(image: Array) -> jax.Array:
    """Stretches the image to [0,1]; in CIE Lab (D65) for three channels."""
    spread = image.max() - image.min()
    image = (image - image.min()) / jnp.where(spread > 0, spread, 1)
    if image.shape[-1] == 3:
        return _lab(image)
    return image


def _lab(rgb: jax.Array) -> jax.Array:
    """Converts sRGB [H,W,3] in [0,1] to CIE Lab (D65)."""
    # Undo the gamma of sRGB, then its linear map to XYZ, relative to the white point.
    linear = jnp.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    to_xyz = np.array(
        [
            [0.412453, 0.357580, 0.180423],
            [0.212671, 0.715160, 0.072169],
            [0.019334, 0.119193, 0.950227],
        ]
    )
    white = np.array([0.95047, 1.0, 1.08883])
    xyz = jnp.matmul(
        linear,
        (to_xyz / white[:, None]).T.astype(np.float32),
        precision="highest",
    )
    # CIE's cube root, linear near 0.
    f = jnp.where(xyz > 0.008856, jnp.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x = f[..., 0]
    y = f[..., 1]
    z = f[..., 2]
    return jnp.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def smooth(image: jax.Array, sigma: float) -> jax.Array:
    """Gaussian blur over both spatial axes, mirrored at the border, cut off at four sigma."""
    radius = int(4 * sigma + 0.5)
    if radius == 0:
        return image
    # A Gaussian separates: one axis after the other.
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for axis in (0, 1):
        padded = jnp.pad(
            image,
            [(radius, radius) if i == axis else (0, 0) for i in range(3)],
            mode="symmetric",
        )
        size = image.shape[axis]
        image = sum(
            k * jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i, k in enumerate(kernel)
        )
    return image


def _cluster(
    colours: jax.Array,
    centres: np.ndarray,
    steps: np.ndarray,
    iterations: int,
) -> jax.Array:
    """Clusters pixels by k-means in space and colour, each centre reaching two steps far.

    The first pass goes by distance alone.
    """
    height, width, channels = colours.shape
    # Places in units of the grid's step, colours in units of the compactness.
    places = np.stack(np.mgrid[:height, :width], -1).reshape(-1, 2).astype(np.float32)
    points = jnp.concatenate([places / steps.max(), colours.reshape(-1, channels)], -1)
    numbers = np.arange(len(centres))[:, None]

    def assign(means: jax.Array) -> jax.Array:
        """Returns the nearest centre of each pixel."""
        # Centres come first: a reduction over the leading axis is several times faster on CPU.
        distance = sum((means[:, None, i] - points[:, i]) ** 2 for i in range(points.shape[1]))
        for i in (0, 1):
            # A centre out of reach is infinitely far; its window is scikit-image's.
            middle = means[:, None, i] * steps.max()
            low = jnp.floor(middle - 2 * steps[i])
            high = jnp.floor(middle + 2 * steps[i] + 1)
            near = (places[:, i] >= jnp.maximum(low, 0)) & (places[:, i] < high)
            distance = jnp.where(near, distance, jnp.inf)
        # Of several within rounding, the first.
        nearest = distance <= distance.min(0) * (1 + 1e-6) + 1e-12
        return jnp.where(nearest, numbers, len(centres)).min(0)

    def update(_: int, means: jax.Array) -> jax.Array:
        # The means of the members; a centre without any stays.
        member = (assign(means) == numbers).astype(points.dtype)
        sums = jnp.matmul(member, points, precision="highest")
        sizes = member.sum(1)[:, None]
        return jnp.where(sizes > 0, sums / jnp.maximum(sizes, 1), means)

    # Colours start at 0, the same for all centres, so the first pass sees distance alone.
    start = jnp.concatenate(
        [jnp.asarray(centres) / steps.max(), jnp.zeros((len(centres), channels))], -1
    )
    means = jax.lax.fori_loop(0, iterations - 1, update, start)
    return assign(means).reshape(height, width)


def _connect(labels: jax.Array, count: int, min_size: int) -> jax.Array:
    """Keeps the largest connected part of each label; all other parts join a neighbour.

    A largest part of fewer than `min_size` pixels joins one too. As in scikit-image, a part joins
    the one, among those that begin earlier, at its last pixels.
    """
    # Name each part after its first pixel, and count its pixels.
    names = _components(labels)
    pixels = labels.size
    parts = names.reshape(-1)
    flat = labels.reshape(-1)
    sizes = jax.ops.segment_sum(jnp.ones_like(parts), parts, pixels)[parts]
    largest = jax.ops.segment_max(sizes, flat, count)[flat]
    # Keep the first of the largest parts of a label if large enough, and the largest of all.
    first = jax.ops.segment_min(
        jnp.where(
            sizes == largest,
            parts,
            pixels,
        ),
        flat,
        count,
    )[flat]
    kept = (parts == first) & (sizes >= min_size) | (parts == parts[jnp.argmax(sizes)])

    # An earlier neighbour has a smaller name; a part joins the one at its last such pixel.
    touched = (
        jnp.stack([jnp.where(n < names, n, -1) for n in _neighbours(names, pixels)])
        .max(0)
        .reshape(-1)
    )
    last = jax.ops.segment_max(
        jnp.where(
            touched >= 0,
            jnp.arange(pixels),
            -1,
        ),
        parts,
        pixels,
    )[parts]
    # Follow the joins to a kept part: doubling reaches every chain's end in log2 steps.
    root = jnp.where(kept | (last < 0), parts, touched[last])
    root = jax.lax.fori_loop(
        0,
        int(pixels).bit_length(),
        lambda _, root: root[root],
        root,
    )
    return _grow(jnp.where(kept[root], flat[root], -1).reshape(labels.shape)).astype(jnp.int32)


def _grow(labels: jax.Array) -> jax.Array:
    """Gives each pixel labelled -1 the label of a neighbour, until there is none left."""

    def step(labels: jax.Array) -> jax.Array:
        for neighbour in _neighbours(labels, -1):
            labels = jnp.where(labels < 0, neighbour, labels)
        return labels

    return jax.lax.while_loop(lambda x: (x < 0).any(), step, labels)


def _components(labels: jax.Array) -> jax.Array:
    """The connected component of each pixel, named after its smallest pixel index."""
    pixels = labels.size
    same = [neighbour == labels for neighbour in _neighbours(labels, -1)]

    def spread(carry: tuple) -> tuple:
        # Take the least name among equal neighbours.
        names, _ = carry
        new = names
        for joined, neighbour in zip(same, _neighbours(names, pixels), strict=True):
            new = jnp.where(joined, jnp.minimum(new, neighbour), new)
        # Then its representative's name, which makes few passes enough for long components.
        new = new.reshape(-1)[new]
        return new, (new != names).any()

    start = jnp.arange(pixels, dtype=jnp.int32).reshape(labels.shape)
    return jax.lax.while_loop(lambda carry: carry[1], spread, (start, jnp.array(True)))[0]


def _neighbours(values: jax.Array, outside: int) -> list[jax.Array]:
    """Returns the values above, below, left and right of each pixel; `outside` past the border."""
    padded = jnp.pad(values, 1, constant_values=outside)
    return [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
