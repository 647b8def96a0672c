"""The mapping of functions over batches and devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xinv import parallel
from xinv.types import InputError


class Lazy:
    """An array-like that is read from the host by fancy indexing only."""

    def __init__(self, array: np.ndarray):
        self.array, self.shape, self.dtype, self.reads = array, array.shape, array.dtype, []

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        assert isinstance(positions, np.ndarray)
        self.reads.append(len(positions))
        return self.array[positions]


def scale_and_noise(shared, batch, keys):
    noise = jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
    return {"scaled": batch["x"] * shared, "noise": noise}


@pytest.mark.parametrize("batch_size", [1, 4, 5, 11, 64])
def test_batch_size_changes_nothing(batch_size):
    """`map_batches` depends on no batch size and drops padding."""
    x, key = np.arange(22, dtype=np.float32).reshape(11, 2), jax.random.key(3)
    result = parallel.map_batches(scale_and_noise, jnp.float32(2), {"x": x}, batch_size, key)
    np.testing.assert_array_equal(result["scaled"], x * 2)
    expected = np.stack([jax.random.normal(jax.random.fold_in(key, i), (3,)) for i in range(11)])
    np.testing.assert_allclose(result["noise"], expected, rtol=1e-6)


def test_compiles_once():
    """`map_batches` compiles once across variables and the partial batch."""
    traces = []

    def fn(shared, batch, keys):
        traces.append(keys)
        return batch + shared

    for shared in (1.0, 2.0):
        result = parallel.map_batches(fn, np.float32(shared), np.zeros((7, 2), np.float32), 3)
        np.testing.assert_array_equal(result, np.full((7, 2), shared))
    assert traces == [None]


def test_streams_into_memory_map(tmp_path):
    """`map_batches` streams lazy arrays into a memory map."""
    lazy = Lazy(np.arange(20, dtype=np.uint8).reshape(10, 2))
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.float32, (10, 2))
    result = parallel.map_batches(lambda _, batch, keys: batch / 2, None, lazy, 4, out=out)
    assert result is out
    assert max(lazy.reads) == 4
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), lazy.array / 2)


def test_missing_parts_are_kept():
    """`map_batches` keeps missing parts of a structure."""
    result = parallel.map_batches(
        lambda _, batch, keys: (batch["a"], batch["b"]), None, {"a": np.ones(3), "b": None}, 2
    )
    assert result[1] is None


def test_unequal_lengths_refused():
    """`map_batches` rejects nothing and unequal lengths."""
    with pytest.raises(InputError, match="at least one example"):
        parallel.map_batches(scale_and_noise, 1.0, {"x": np.zeros((0, 2))}, 4)
    with pytest.raises(InputError, match=r"\[2, 3\]"):
        parallel.map_batches(scale_and_noise, 1.0, {"x": np.zeros((2, 1)), "y": np.zeros(3)}, 4)


def test_replicate_copies():
    """`replicate` copies, so that donation spares the original."""
    original = jnp.arange(4.0)
    step = parallel.pmap_step(lambda state, batch, key: (state + parallel.mean(batch.sum()), {}))
    state, _ = step(
        parallel.replicate(original),
        parallel.shard(np.ones(4, np.float32)),
        parallel.per_device(jax.random.key(0)),
    )
    np.testing.assert_array_equal(original, np.arange(4.0))
    np.testing.assert_array_equal(state, np.arange(4.0) + 4 / parallel.device_count())


def test_without_shared_arguments():
    """`map_batches` maps without shared arguments."""
    values = np.arange(10, dtype=np.float32)[:, None]
    doubled = parallel.map_batches(
        lambda shared, batch, keys: 2 * batch, {}, values, 8, jax.random.key(0)
    )
    np.testing.assert_array_equal(doubled, 2 * values)
