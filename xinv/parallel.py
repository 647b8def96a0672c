"""Devices and batches: the only file that names pmap or meshes.

A function is written for one device and sees its share of a batch; `AXIS` names the devices among
themselves. A batch is sharded over them and everything else is replicated, without a leading device
axis. The devices are those of all processes of the run: each process reads its part of a batch.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from xinv import processes, stream
from xinv.types import InputError, Key

AXIS = "data"
"""The axis to average over: gradients by `mean`, batch statistics by
`nn.BatchNorm(axis_name=AXIS)`.
"""

Tree = Any
Step = Callable[[Any, Any, Key], tuple[Any, dict[str, jax.Array]]]
"""`(state, batch, key) -> (state, metrics)` on one device; what it returns is equal on every device
(see `mean`).
"""

_RESIDENT_BYTES = 2**30  # larger data sets stream from the host
_STEPS_PER_DISPATCH = (
    64  # on accelerators: enough that the time of dispatching is spread thin; to be measured on one
)
_PROGRAMS = 64  # compiled functions kept alive by the caches below


def device_count() -> int:
    """The number of devices that a batch is divided among, over all processes."""
    return jax.device_count()


@functools.cache
def places() -> np.ndarray:
    """int [local devices], where this process's devices stand among all.

    The first call connects the processes; each makes it at its start.

    Raises:
      InputError: the processes have different numbers of devices.
    """
    local = jax.local_device_count()
    if processes.count() == 1:
        return np.arange(local)
    owners = [device.process_index for device in jax.devices()]
    counts = np.bincount(owners, minlength=processes.count())
    if np.ptp(counts):
        raise InputError(
            f"the processes of a run need equally many devices: they have {counts.tolist()}"
        )

    def place(one: jax.Array) -> tuple[jax.Array, jax.Array]:
        # XLA would compute the sum of a constant without a connection
        return jax.lax.axis_index(AXIS), total(one)

    found, _ = jax.pmap(place, axis_name=AXIS, out_axes=(0, None))(np.ones(local, np.float32))
    return np.asarray(found)


def own(positions: np.ndarray) -> np.ndarray:
    """The part of a batch's positions [B] that the devices of this process take, in their order."""
    return positions.reshape(device_count(), -1)[places()].reshape(-1)


def broadcast(tree: Tree) -> Tree:
    """Process 0's NumPy arrays, on every process; all give arrays of the same shapes and types."""
    if processes.count() == 1:
        return tree
    # As bytes, since a sum of numbers would lose the sign of a zero
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    raw = [np.frombuffer(leaf.tobytes(), np.uint8) for leaf in leaves]
    given = np.zeros((jax.local_device_count(), sum(map(len, raw))), np.uint8)
    if processes.leads():
        given[0] = np.concatenate(raw)
    told = np.asarray(_pmap_total()(given))
    found = []
    start = 0
    for leaf in leaves:
        part = told[start : start + leaf.nbytes]
        found.append(np.frombuffer(part.tobytes(), leaf.dtype).reshape(leaf.shape).copy())
        start += leaf.nbytes
    return jax.tree.unflatten(jax.tree.structure(tree), found)


@functools.cache
def _pmap_total() -> Callable[[np.ndarray], jax.Array]:
    return jax.pmap(total, axis_name=AXIS, out_axes=None)


def mean(tree: Tree) -> Tree:
    """Averages over the devices, inside a function that this module runs."""
    return jax.lax.pmean(tree, AXIS)


def total(tree: Tree) -> Tree:
    """Sums over the devices, inside a function that this module runs."""
    return jax.lax.psum(tree, AXIS)


def shared(key: Key) -> Key:
    """The first device's key, on every device, inside a function that this module runs."""
    first = jax.lax.all_gather(jax.random.key_data(key), AXIS)[0]
    return jax.random.wrap_key_data(first, impl=jax.random.key_impl(key))


def alone(fn: Callable[..., Tree]) -> Callable[..., Tree]:
    """Returns `fn`, a function of a batch on one device, as a function of one example.

    Inside, the example is a batch of its own on the only device, so that what depends on the place
    in the global batch, such as a dropout mask, depends on the arguments alone. It can be vmapped.
    """

    def run(*example: Tree) -> Tree:
        # An axis of the same name and of size one hides that of the devices
        own = jax.tree.map(lambda leaf: leaf[None], example)
        result = jax.vmap(fn, axis_name=AXIS, axis_size=1)(*own)
        return jax.tree.map(lambda leaf: leaf[0], result)

    return run


def batch_positions(local_size: int) -> jax.Array:
    """int32 [local_size], where this device's examples stand in the global batch."""
    return jax.lax.axis_index(AXIS) * local_size + jnp.arange(local_size, dtype=jnp.int32)


def replicate(tree: Tree) -> Tree:
    """A copy of `tree` on each device of this process; never an alias, so it may be donated."""
    return jax.device_put(tree, _sharding(PartitionSpec()), may_alias=False)


def shard(tree: Tree) -> Tree:
    """Divides each leaf's leading axis [B,...] among this process's devices, [devices, B/devices,
    ...].
    """
    devices = jax.local_device_count()
    return jax.tree.map(
        lambda leaf: np.reshape(leaf, (devices, len(leaf) // devices, *leaf.shape[1:])), tree
    )


def per_device(key: Key) -> Key:
    """`key` as the argument of a pmapped step: one copy for each device of this process."""
    copies = jnp.broadcast_to(key, (jax.local_device_count(),))
    return jax.device_put(copies, _sharding(PartitionSpec(AXIS)))


def _sharding(spec: PartitionSpec) -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), spec)


@functools.lru_cache(_PROGRAMS)
def pmap_step(step: Step) -> Step:
    """`step` over all devices: the state is replicated and donated; batch and key have a leading
    device axis.
    """
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0, 0), out_axes=None, donate_argnums=0)


@functools.lru_cache(_PROGRAMS)
def _pmap_steps(step: Step) -> Step:
    """Many steps in one dispatch, on data that lives on the devices; metrics gain a leading step
    axis.

    The batch is `(data, positions[devices, steps, B/devices])`.
    """

    def steps(
        state: Any,
        batch: tuple[Tree, jax.Array],
        key: Key,
    ) -> tuple[Any, dict[str, jax.Array]]:
        data, positions = batch

        def body(state: Any, chosen: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
            return step(state, jax.tree.map(lambda leaf: leaf[chosen], data), key)

        return jax.lax.scan(body, state, positions)

    return jax.pmap(
        steps,
        axis_name=AXIS,
        in_axes=(None, (None, 0), 0),
        out_axes=None,
        donate_argnums=0,
    )


class Runner(NamedTuple):
    """The dispatch of a training's steps.

    Attributes:
      feed: `order[steps, B] -> iterator of batches`, the rows of `data` at those positions, one
        item per dispatch.
      advance: `(state, batch, key) -> (state, metrics)`, one dispatch; consumes the state; the key
        is `per_device`.
    """

    feed: Callable[[np.ndarray], Iterator[Any]]
    advance: Step


def runner(step: Step, data: Tree, resident: bool | None = None) -> Runner:
    """Decides where the data lives and how many steps one dispatch runs; the result is the same
    either way.

    On accelerators, arrays of up to 1 GiB in all live on the devices and a scan runs many steps per
    dispatch. Otherwise each step is a dispatch, with its batch gathered from the host while the
    step before runs (dispatch is asynchronous): for data that is large or read lazily, and on CPU,
    where a convolution inside a scan is slow.

    Args:
      step: see `Step`.
      data: a tree of arrays [N,...], or of lazy array-likes with `.shape` and `[int array] ->
        numpy`. One with `.threads` is read that many batches at once, see `stream.read_ahead`.
      resident: whether the data lives on the devices, if the caller knows better.
    """
    if resident is None:
        resident = jax.default_backend() != "cpu" and _fits(data)
    if not resident:
        data = host(data)
        threads = stream.threads(data)

        # Each process reads the rows of its own devices
        def read(positions: np.ndarray) -> Tree:
            return take(data, own(positions))

        return Runner(
            lambda order: map(shard, stream.read_ahead(read, order, threads)),
            _paced(pmap_step(step)),
        )
    placed = replicate(data)

    def feed(order: np.ndarray) -> Iterator[Any]:
        for part in np.array_split(order, math.ceil(len(order) / _STEPS_PER_DISPATCH)):
            shares = np.swapaxes(part.reshape(len(part), device_count(), -1), 0, 1)
            yield placed, shares[places()]

    return Runner(feed, _paced(_pmap_steps(step)))


def _fits(data: Tree) -> bool:
    leaves = jax.tree.leaves(data)
    arrays = all(isinstance(leaf, np.ndarray | jax.Array) for leaf in leaves)
    return arrays and sum(leaf.nbytes for leaf in leaves) <= _RESIDENT_BYTES


def _paced(advance: Step) -> Step:
    """Blocks each dispatch on several forced CPU devices, whose collectives can deadlock when
    dispatches overlap.
    """
    if jax.default_backend() != "cpu" or device_count() == 1:
        return advance
    return lambda state, batch, key: jax.block_until_ready(advance(state, batch, key))


def host(data: Tree) -> Tree:
    """Device arrays as numpy arrays; everything else as it is."""
    return jax.tree.map(
        lambda leaf: np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf, data
    )


def take(data: Tree, positions: np.ndarray) -> Tree:
    """Reads the rows at `positions` of every array-like as numpy arrays."""
    return jax.tree.map(lambda leaf: np.asarray(leaf[positions]), data)


def length(data: Tree) -> int:
    """The number of examples of a tree of array-likes.

    Raises:
      InputError: the arrays differ in length, or there is none.
    """
    lengths = {leaf.shape[0] for leaf in jax.tree.leaves(data)}
    if len(lengths) != 1:
        raise InputError(
            f"arrays of one data set need one length: got {sorted(lengths) or 'no array'}"
        )
    return lengths.pop()


def map_batches(
    fn: Callable[[Any, Any, Key | None], Any],
    shared: Any,
    arrays: Tree,
    batch_size: int,
    key: Key | None = None,
    out: Tree | None = None,
) -> Tree:
    """Streams N examples through `fn` on all devices; memory on the devices is bounded by two
    batches.

    The result depends on neither `batch_size` nor the number of devices. `fn` is compiled once for
    each function object and batch shape: the last batch is padded, and the padding dropped. Of
    several processes each reads its part of the examples, and has all results.

    Args:
      fn: `(shared, batch, keys[B]) -> tree of [B,...]`, one result per example, independent of its
        neighbours.
      shared: replicated argument, for example a model's variables.
      arrays: tree of arrays or lazy array-likes [N,...]; `batch` has the same structure.
      batch_size: examples per dispatch, over all devices (rounded up to a multiple of their
        number).
      key: example i gets `fold_in(key, i)`; without a key `keys` is None.
      out: tree of preallocated arrays [N,...], such as memory maps, to write into.

    Returns:
      The results as numpy arrays [N,...]; `out` if given.

    Raises:
      InputError: no examples, or arrays of different lengths.
    """
    count = length(arrays)
    if count == 0 or batch_size < 1:
        raise InputError(
            f"need at least one example and a batch size of at least 1: got {count} and"
            f" {batch_size}"
        )
    batch_size = math.ceil(min(batch_size, count) / device_count()) * device_count()
    arrays = host(arrays)
    program = _pmap_examples(fn)
    # pmap mistakes the axes of what follows an argument without leaves
    shared = replicate((shared, np.int32(0)))

    # Each process reads the rows of its own devices
    def read(start: int) -> Tree:
        positions = np.minimum(np.arange(start, start + batch_size, dtype=np.int32), count - 1)
        mine = own(positions)
        return take(arrays, mine), mine

    # One batch is written while the next is computed
    pending = None
    starts = range(0, count, batch_size)
    batches = stream.read_ahead(read, starts, stream.threads(arrays))
    for start, batch in zip(starts, batches, strict=True):
        result, _ = program(shared, shard(batch), key)
        out = _write(out, pending, count)
        pending = start, result
    return _write(out, pending, count)


@functools.lru_cache(_PROGRAMS)
def _pmap_examples(fn: Callable[..., Any]) -> Callable[..., Any]:
    def program(
        shared: tuple[Any, jax.Array],
        batch: tuple[Tree, jax.Array],
        key: Key | None,
    ) -> Any:
        (shared, _), (examples, positions) = shared, batch
        if key is None:
            keys = None
        else:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, positions)
        # Not the results alone: pmap over several processes fails without any leaf
        found = fn(shared, examples, keys), positions
        # A process sees the results of its own devices alone, unless they are exchanged
        if exchanged:
            return jax.lax.all_gather(found, AXIS)
        return found

    exchanged = processes.count() > 1
    out_axes = None if exchanged else 0
    return jax.pmap(program, axis_name=AXIS, in_axes=(None, 0, None), out_axes=out_axes)


def _write(out: Tree | None, pending: tuple[int, Tree] | None, count: int) -> Tree | None:
    """Fetches one dispatch's results [devices, B/devices, ...] into rows of `out`, allocated on the
    first call.
    """
    if pending is None:
        return out
    start, result = pending
    rows = jax.tree.map(
        lambda leaf: np.reshape(leaf, (math.prod(leaf.shape[:2]), *leaf.shape[2:])), result
    )
    if out is None:
        out = jax.tree.map(lambda row: np.empty((count, *row.shape[1:]), row.dtype), rows)

    def copy(target: np.ndarray, row: np.ndarray) -> None:
        target[start : start + len(row)] = row[: count - start]

    jax.tree.map(copy, out, rows)
    return out
