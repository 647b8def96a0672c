"""Batches read ahead by Grain's threads: the same trainings, from files and in bounded memory."""

import threading
import weakref

import numpy as np
import pytest
from trainings import equal, fit_small, pictures

from xinv import data, parallel, stream
from xinv.train import Session, Stopped
from xinv.types import InputError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    found = pictures()
    classes = {"label": ("a", "b", "c")}
    made = data.create("pictures", found["image"], {"label": found["label"]}, classes)
    data.prepare(made, str(folder))
    return str(folder)


def batch_of(root, threads):
    pytest.importorskip("grain")
    found = data.build("tfds", dataset="pictures", root=root, threads=threads)
    return {"image": found.images, "label": found.labels["label"]}


class Watched:
    """Images that count how many batches of them exist at once."""

    def __init__(self, images, threads):
        self._images, self.threads = images, threads
        self.shape, self.dtype = images.shape, images.dtype
        self.alive = self.most = self.reads = 0
        self._lock = threading.Lock()

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        batch = np.array(self._images[index])
        with self._lock:
            self.reads += 1
            self.alive += 1
            self.most = max(self.most, self.alive)
        weakref.finalize(batch, self._gone)
        return batch

    def _gone(self):
        with self._lock:
            self.alive -= 1


def test_losses_are_bit_equal(root):
    """Training from files, read ahead, gives the losses and weights of the images in memory."""
    streamed = batch_of(root, threads=2)
    np.testing.assert_array_equal(streamed["image"][:], pictures()["image"])
    memory, files = fit_small(), fit_small(data=streamed)
    assert memory.history == files.history
    assert equal(memory.variables, files.variables)


def test_position_is_the_step(root, tmp_path):
    """A training stopped within an epoch goes on with the batch that comes next."""
    streamed, steps = batch_of(root, threads=2), []
    session = Session(tmp_path, log=lambda step, _: steps.append(step))
    with pytest.raises(Stopped):
        fit_small(session._replace(stop=lambda: len(steps) >= 5), streamed)
    assert 5 <= len(steps) < 12
    assert equal(fit_small(session, streamed).variables, fit_small().variables)


def test_memory_is_bounded(root):
    """However long a training is, few batches of it exist at once."""
    streamed = batch_of(root, threads=2)
    watched = Watched(streamed["image"], 2)
    fit_small(data=streamed | {"image": watched}, epochs=12)
    allowed = 2 * stream.AHEAD + 4  # one is handed over, and JAX holds those of two dispatches
    assert watched.reads > 4 * allowed
    assert 2 < watched.most <= allowed


def test_mapping_reads_ahead(root):
    streamed = batch_of(root, threads=3)
    watched = Watched(streamed["image"], 3)
    found = parallel.map_batches(lambda _, batch, keys: batch, None, watched, 1)
    np.testing.assert_array_equal(found, pictures()["image"])
    assert watched.most <= 3 * stream.AHEAD + 4 < watched.reads


def test_threads_read_at_once():
    """Each read waits for another one: without a second thread none would return."""
    pytest.importorskip("grain")
    both = threading.Barrier(2, timeout=30)

    def read(position):
        both.wait()
        return position**2

    assert [*stream.read_ahead(read, range(8), 2)] == [number**2 for number in range(8)]


def test_changes_keep_threads(root):
    """Images that are chosen, changed and joined are read ahead as their source is."""
    found = data.build("tfds", dataset="pictures", root=root)
    images = data.Lazy(found.images.shape, found.images.__getitem__, threads=3)
    few = data.take(found._replace(images=images), [5, 1, 3])
    small = data.transform(few, resize=(3, 3))
    joined = data.concatenate([small.images, found.images[:2][:, :3, :3]])
    assert [x.threads for x in (few.images, small.images, joined)] == [3, 3, 3]
    assert stream.threads({"image": joined, "label": few.labels["label"]}) == 3
    assert stream.threads(pictures()) == 0


def test_errors_come_through():
    pytest.importorskip("grain")

    def read(position):
        if position == 2:
            raise InputError("the files are damaged")
        return position

    batches = stream.read_ahead(read, range(9), 2)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(InputError) as caught:
        next(batches)
    assert str(caught.value) == "the files are damaged"


def test_grain_is_missing(root, monkeypatch):
    """Without the extra one sentence says what to install."""
    monkeypatch.setattr(stream.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs Grain: install the extra.*or set threads=0$"):
        data.build("tfds", dataset="pictures", root=root, threads=1)


def test_threads_end(root):
    """A training that is left early leaves no thread behind."""
    streamed = batch_of(root, threads=2)
    order = np.arange(40, dtype=np.int32).reshape(20, 2)
    feed = parallel.runner(lambda state, batch, key: (state, {}), streamed, resident=False).feed
    batches = feed(order)
    next(batches)
    del batches
    for thread in threading.enumerate():
        if thread.name.startswith("grain-prefetch"):
            thread.join(10)
            assert not thread.is_alive()
