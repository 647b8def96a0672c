"""The batches of a training: their examples, in order, augmented.

Every random choice is a function of the training's key and of the epoch or step: it is the same
after a resume, on any number of devices and wherever the data lives.
"""

import functools
from collections.abc import Callable, Iterator

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

from xinv import parallel, stream
from xinv.images import as_float
from xinv.train.recipe import Recipe
from xinv.types import Array, Batch, InputError, Key, Variables

Evaluate = Callable[[Variables, Batch], jax.Array]
"""`(variables, batch) -> [B]`: a score per example, of which lower is better."""


class Plan:
    """The validation part of `count` examples, and the order of the others in each epoch.

    The orders are drawn on the host, so that a new epoch never waits for the device.

    Raises:
      InputError: too few examples for a batch, or a batch that the devices do not divide.
    """

    def __init__(
        self,
        recipe: Recipe,
        count: int,
        key: Key,
        name: str,
    ):
        self.steps_per_epoch = steps_per_epoch(recipe, count, name)
        self._recipe = recipe
        self._seed = jax.random.key_data(key).tolist()

        # The order of epoch 0 separates the validation part from the others
        order = self._permutation(0, count)
        held_out = _held_out(recipe, count)
        self.validation = order[:held_out]
        self._training = order[held_out:]

    def orders(self, start: int) -> Iterator[np.ndarray]:
        """Yields the positions [steps, B] of each epoch's (remaining) batches from step `start`."""
        # An epoch drops the examples that do not fill a last batch
        used = self.steps_per_epoch * self._recipe.batch_size
        for epoch in range(start // self.steps_per_epoch, self._recipe.epochs):
            # Each epoch has an order of its own, so that a resume need not draw the earlier ones
            order = self._training[self._permutation(epoch + 1, len(self._training))]
            batches = order[:used].reshape(self.steps_per_epoch, -1)
            done = max(start - epoch * self.steps_per_epoch, 0)
            yield batches[done:]

    def left_out(self) -> np.ndarray:
        """Returns the positions, ascending, of training examples that no batch of any epoch has."""
        left = np.sort(self._training)
        for order in self.orders(0):
            left = np.setdiff1d(left, order)
            if not len(left):
                break
        return left

    def _permutation(self, number: int, count: int) -> np.ndarray:
        generator = np.random.default_rng([*self._seed, number])
        return generator.permutation(count).astype(np.int32)


def _held_out(recipe: Recipe, count: int) -> int:
    if not recipe.validation:
        return 0
    return max(round(recipe.validation * count), 1)


def steps_per_epoch(recipe: Recipe, count: int, name: str = "train") -> int:
    """Returns the number of full batches in the training part of `count` examples.

    Raises:
      InputError: there is none, or the devices do not divide a batch.
    """
    size = recipe.batch_size
    devices = parallel.device_count()
    training = count - _held_out(recipe, count)
    if size % devices:
        raise InputError(
            f"{name}: a batch of {size} does not divide among {devices} devices: "
            "use a multiple of it"
        )
    if training < size:
        raise InputError(
            f"{name}: {training} training images are fewer than a batch of {size}: lower batch_size"
        )
    return training // size


class Rows:
    """The rows of an array-like at some positions, read when they are indexed."""

    def __init__(self, array: Array, positions: np.ndarray):
        self._array = array
        self._positions = positions
        self.shape = (len(positions), *array.shape[1:])
        self.dtype = array.dtype
        self.threads = stream.threads(array)

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        return self._array[self._positions[index]]


def mean_score(
    evaluate: Evaluate | None,
    variables: Variables,
    data: Batch,
    positions: np.ndarray,
    batch_size: int,
) -> float | None:
    """Returns the mean of `evaluate` at `positions`, unaugmented; None if nothing evaluates."""
    if evaluate is None:
        return None
    # Rows are read batch by batch: the data may be larger than memory
    rows = {name: Rows(leaf, positions) for name, leaf in data.items()}
    scores = parallel.map_batches(_scores(evaluate), variables, rows, batch_size)
    return float(np.mean(scores, dtype=np.float64))


@functools.lru_cache(64)
def _scores(evaluate: Evaluate) -> Callable[..., jax.Array]:
    def scores(variables: Variables, batch: Batch, keys: None) -> jax.Array:
        del keys
        shown = dict(batch)
        for name, leaf in batch.items():
            if _is_image(leaf):
                shown[name] = as_float(leaf)
        return evaluate(variables, shown)

    return scores


@functools.lru_cache(64)
def prepared(step: parallel.Step, augment: tuple[str, ...], padding: int) -> parallel.Step:
    """Returns `step` on augmented images in [0,1], its metrics averaged over the devices."""
    moved = jax.vmap(functools.partial(_augmented, augment, padding))

    def run(
        state: parallel.Tree,
        batch: Batch,
        key: Key,
    ) -> tuple[parallel.Tree, dict[str, jax.Array]]:
        # One key per example by its place in the global batch, for any number of devices
        key = jax.random.fold_in(key, state.step)
        augment_key, step_key = jax.random.split(key)
        size = len(jax.tree.leaves(batch)[0])
        positions = parallel.batch_positions(size)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(augment_key, positions)

        # Augment, here on the device: an epoch moves only bytes
        shown = dict(batch)
        for name, leaf in batch.items():
            if _is_image(leaf):
                shown[name] = as_float(moved(leaf, keys))

        # Step, with random numbers of its own on each device
        device_key = jax.random.fold_in(step_key, positions[0])
        state, metrics = step(state, shown, device_key)
        return state, parallel.mean(metrics)

    return run


def _is_image(leaf: Array) -> bool:
    return leaf.dtype == np.uint8 and len(leaf.shape) == 4


def _augmented(
    augment: tuple[str, ...],
    padding: int,
    image: jax.Array,
    key: Key,
) -> jax.Array:
    """Returns one image [H,W,C], cropped and flipped at random."""
    crop_key, flip_key = jax.random.split(key)
    if "crop" in augment:
        widths = ((padding, padding), (padding, padding), (0, 0))
        padded = jnp.pad(image, widths)
        image = dm_pix.random_crop(crop_key, padded, image.shape)
    if "flip" in augment:
        image = dm_pix.random_flip_left_right(flip_key, image)
    return image


def check(
    data: Batch,
    recipe: Recipe,
    evaluate: Evaluate | None,
    name: str,
) -> None:
    """Checks that `recipe` can train on the data.

    Raises:
      InputError: it cannot.
    """
    augment = recipe.augment
    if (evaluate is not None) != (recipe.validation > 0):
        raise InputError(
            f"{name}: validation is {recipe.validation} but must be 0 just where nothing evaluates"
        )
    if augment and not any(map(_is_image, data.values())):
        raise InputError(
            f"{name}: augment is {augment} but there are no uint8 images to move: use ()"
        )
    # One NaN would end in all weights
    for part, leaf in data.items():
        floating = isinstance(leaf, np.ndarray) and np.issubdtype(leaf.dtype, np.floating)
        if floating and not np.isfinite(np.sum(leaf, dtype=np.float64)):
            raise InputError(
                f"{name}: {part!r} holds NaN or infinite values: training needs finite numbers"
            )
        if augment and len(leaf.shape) >= 4 and not _is_image(leaf):
            raise InputError(
                f"{name}: augment {augment} would move the uint8 images but not {part!r}: use ()"
            )
