"""What the steps of a training see: its part of the data, in what order, augmented how.

Every random choice is a function of the training's key and of the epoch or step, so that it is the same after a resume,
on any number of devices and wherever the data lives.
"""

import functools
from collections.abc import Callable, Iterator

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

from xinv import parallel
from xinv.images import as_float
from xinv.train.recipe import Recipe
from xinv.types import Array, Batch, InputError, Key, Variables

Evaluate = Callable[[Variables, Batch], jax.Array]
"""`(variables, batch) -> [B]`: a score per example, of which lower is better."""


class Plan:
    """Which of `count` examples are held out for validation, and the order of the others in each epoch.

    The orders are drawn on the host, so that a new epoch never waits for the device.

    Raises:
      InputError: too few examples for a batch, or a batch that the devices do not divide.
    """

    def __init__(self, recipe: Recipe, count: int, key: Key, name: str):
        self.steps_per_epoch = steps_per_epoch(recipe, count, name)
        self._recipe = recipe
        self._seed = jax.random.key_data(key).tolist()
        order = self._permutation(0, count)
        held_out = _held_out(recipe, count)
        self.validation, self._training = order[:held_out], order[held_out:]

    def orders(self, start: int) -> Iterator[np.ndarray]:
        """For each epoch from step `start` on: the positions [steps, B] of its (remaining) batches."""
        for epoch in range(start // self.steps_per_epoch, self._recipe.epochs):
            order = self._training[self._permutation(epoch + 1, len(self._training))]
            batches = order[: self.steps_per_epoch * self._recipe.batch_size].reshape(self.steps_per_epoch, -1)
            yield batches[max(start - epoch * self.steps_per_epoch, 0) :]

    def _permutation(self, number: int, count: int) -> np.ndarray:
        return np.random.default_rng([*self._seed, number]).permutation(count).astype(np.int32)


def _held_out(recipe: Recipe, count: int) -> int:
    return max(round(recipe.validation * count), 1) if recipe.validation else 0


def steps_per_epoch(recipe: Recipe, count: int, name: str = "train") -> int:
    """The number of full batches in the training part of `count` examples.

    Raises:
      InputError: there is none, or the devices do not divide a batch.
    """
    size, devices, training = recipe.batch_size, parallel.device_count(), count - _held_out(recipe, count)
    if size % devices:
        raise InputError(f"{name}: a batch of {size} does not divide among {devices} devices: use a multiple of it")
    if training < size:
        raise InputError(f"{name}: {training} training images are fewer than a batch of {size}: lower batch_size")
    return training // size


class Rows:
    """The rows of an array-like at some positions, read when they are indexed."""

    def __init__(self, array: Array, positions: np.ndarray):
        self._array, self._positions = array, positions
        self.shape, self.dtype = (len(positions), *array.shape[1:]), array.dtype

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        return self._array[self._positions[index]]


def mean_score(evaluate: Evaluate, variables: Variables, data: Batch, positions: np.ndarray, batch_size: int) -> float:
    """The mean of `evaluate` over the examples at `positions`, unaugmented."""
    rows = {name: Rows(leaf, positions) for name, leaf in data.items()}
    scores = parallel.map_batches(_scores(evaluate), variables, rows, batch_size)
    return float(np.mean(scores, dtype=np.float64))


@functools.lru_cache(64)
def _scores(evaluate: Evaluate) -> Callable[..., jax.Array]:
    def scores(variables: Variables, batch: Batch, keys: None) -> jax.Array:
        del keys
        return evaluate(variables, {name: as_float(leaf) if _is_image(leaf) else leaf for name, leaf in batch.items()})

    return scores


@functools.lru_cache(64)
def prepared(step: parallel.Step, augment: tuple[str, ...], padding: int) -> parallel.Step:
    """`step` as it runs: on augmented images in [0,1], with a key of the step and device, its metrics averaged."""

    def run(state: parallel.Tree, batch: Batch, key: Key) -> tuple[parallel.Tree, dict[str, jax.Array]]:
        augment_key, step_key = jax.random.split(jax.random.fold_in(key, state.step))
        positions = parallel.batch_positions(len(jax.tree.leaves(batch)[0]))
        keys = jax.vmap(jax.random.fold_in, (None, 0))(augment_key, positions)
        moved = jax.vmap(functools.partial(_augmented, augment, padding))
        batch = {name: as_float(moved(leaf, keys)) if _is_image(leaf) else leaf for name, leaf in batch.items()}
        state, metrics = step(state, batch, jax.random.fold_in(step_key, positions[0]))
        return state, parallel.mean(metrics)

    return run


def _is_image(leaf: Array) -> bool:
    return leaf.dtype == np.uint8 and len(leaf.shape) == 4


def _augmented(augment: tuple[str, ...], padding: int, image: jax.Array, key: Key) -> jax.Array:
    """One image [H,W,C], cropped and flipped at random."""
    crop_key, flip_key = jax.random.split(key)
    if "crop" in augment:
        padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
        image = dm_pix.random_crop(crop_key, padded, image.shape)
    return dm_pix.random_flip_left_right(flip_key, image) if "flip" in augment else image


def check(data: Batch, recipe: Recipe, evaluate: Evaluate | None, name: str) -> None:
    """InputError for data that `recipe` cannot train on."""
    if (evaluate is not None) != (recipe.validation > 0):
        raise InputError(f"{name}: validation is {recipe.validation} but must be 0 just where nothing evaluates")
    if recipe.augment and not any(_is_image(leaf) for leaf in data.values()):
        raise InputError(f"{name}: augment is {recipe.augment} but there are no uint8 images to move: use ()")
    for part, leaf in data.items():
        floating = isinstance(leaf, np.ndarray) and np.issubdtype(leaf.dtype, np.floating)
        if floating and not np.isfinite(np.sum(leaf, dtype=np.float64)):
            raise InputError(f"{name}: {part!r} holds NaN or infinite values: training needs finite numbers")
        if recipe.augment and len(leaf.shape) >= 4 and not _is_image(leaf):
            raise InputError(f"{name}: augment {recipe.augment} would move the uint8 images but not {part!r}: use ()")
