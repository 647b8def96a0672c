"""What several processes of one run compute together, and one process with as many devices; run as
a process by the tests of both.
"""

import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from trainings import SMALL, initial, pictures

from xinv import parallel, processes, store, train
from xinv.leases import Busy
from xinv.models.regularise import dropout
from xinv.train import Recipe
from xinv.types import InputError


class Counted:
    """An array-like that counts the rows that are read."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.rows = array, array.shape, array.dtype, 0

    def __getitem__(self, positions):
        self.rows += len(positions)
        return self.array[positions]


def loss(variables, batch, key):
    """Cross-entropy with dropout, and with noise of each device's own."""
    shown = batch["image"]
    if key is not None:
        mask_key, noise_key = jax.random.split(key)
        shown = dropout(shown, 0.2, mask_key) + 0.1 * jax.random.normal(noise_key, shown.shape)
    return train.classifier_loss(SMALL)(variables, batch | {"image": shown}, key)


def trained(found):
    """Adds the weights of a training on lazy arrays, and the number of rows that it read."""
    data = {name: Counted(array) for name, array in pictures().items()}
    recipe = Recipe(
        batch_size=8,
        epochs=2,
        optimizer="sgd",
        learning_rate=0.1,
        augment=("crop", "flip"),
        crop_padding=1,
        validation=0,
    )
    fitted = train.fit(loss, initial(), data, jax.random.key(5), recipe)
    for number, leaf in enumerate(jax.tree.leaves(fitted.variables)):
        found[f"weights {number}"] = leaf
    found["loss"] = fitted.history["loss"]
    found["rows trained on"] = data["image"].rows


def mapped(found):
    """Adds draws for each example, of a number that the devices do not divide."""
    rows = Counted(np.arange(33, dtype=np.float32)[:, None])

    def fn(shared, batch, keys):
        return batch + jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys), batch[:, 0] > 5

    found["drawn"], found["above"] = parallel.map_batches(fn, {}, rows, 8, jax.random.key(1))
    found["rows mapped"] = rows.rows


def placed(found):
    """Adds the sums of two steps on data that lives on the devices."""

    def step(state, batch, key):
        return state + parallel.total(batch.sum()), {"n": jnp.float32(1)}

    run = parallel.runner(step, np.arange(40, dtype=np.float32), resident=True)
    state, key = parallel.replicate(np.float32(0)), parallel.per_device(jax.random.key(0))
    order = np.random.default_rng(0).permutation(40)[:16].astype(np.int32).reshape(2, 8)
    for batch in run.feed(order):
        state, _ = run.advance(state, batch, key)
    found["placed"], found["expected sum"] = state, order.sum()


def told(found):
    """Adds what all processes learn from the first one."""
    number = jax.process_index()
    tree = [
        np.array(-0.0) * (1 - number),
        np.array([[True, False]]) & (number == 0),
        np.full(3, 1.5 + number, ml_dtypes.bfloat16),
        np.zeros((0, 2), np.int8),
    ]
    for place, leaf in enumerate(parallel.broadcast(tree)):
        found[f"told {place}"] = leaf.astype(np.float32)
    found["negative zero"] = np.signbit(parallel.broadcast(tree)[0])
    found["numbers"] = [processes.led(lambda n=n: n * (1 + number)) for n in range(2500)]


def stored(found, folder):
    """Adds how a stage is built and read by all, and which errors all share."""
    with store.opened(folder) as opened:
        stage, there = opened.find("a", {"b": 1})

        def build(partial):
            array = store.create_array(partial / "filled.npy", (3, 2), np.float32)
            array[:] = np.arange(6).reshape(3, 2)
            store.save_array(partial / "saved.npy", np.full(2, jax.process_index()))
            store.save_tree(partial / "state", {"w": np.full(2, jax.process_index())})

        opened.compute(stage, {"b": 1}, build)
        found["there"] = [there, opened.find("a", {"b": 1})[1]]
        found["filled"], found["saved"] = stage.array("filled"), stage.array("saved")
        found["state"] = stage.tree("state")["w"]
        for kind in (Busy, OSError):
            try:
                processes.led(_raiser(kind), Busy)
            except (Busy, OSError, InputError) as error:
                found[f"error {kind.__name__}"] = f"{type(error).__name__}: {error}"
        try:
            opened.find("a", {"b": jax.process_index()})
        except InputError as error:
            found["another config"] = str(error)


def _raiser(kind):
    def fail():
        raise kind("of the first")

    return fail


def main(out, number, count, port):
    if count > 1:
        processes.initialise(processes.Place(f"localhost:{port}", count, number))
    found = {"devices": parallel.device_count(), "places": parallel.places()}
    for part in (trained, mapped, placed, told):
        part(found)
    stored(found, Path(out) / f"stages of {count}")
    np.savez(Path(out) / f"{number} of {count}.npz", **found)
    processes.leave()


def environment(devices, cores):
    """Variables of such a process."""
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
        "NPROC": str(cores),
    }


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
