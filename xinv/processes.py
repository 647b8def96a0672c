"""Several processes of one run: which of them leads, and what it tells the others.

Every process runs the same program, and computes its share of each batch. Process 0 alone looks at
what may change meanwhile (files, the clock, signals) and writes; the others are told what it found.
A process is one of several only after `initialise`: nothing is detected.
"""

import itertools
import json
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from xinv.types import InputError

HEARTBEAT_SECONDS = 60
"""A process that does not answer for this long is lost, as a lease is, and JAX ends the others."""
PATIENCE_SECONDS = 300.0
"""Processes of one run start within this time of each other."""
_FOREVER = 2**31 - 1  # milliseconds: a process that waits for a dead one is ended by JAX
_KEPT = 1000  # answers of process 0 that are kept, for those that are behind

_numbers = itertools.count()


class Place(NamedTuple):
    """The place of a process among those of a run.

    Attributes:
      coordinator: "host:port", on which process 0 listens.
      count: the number of processes.
      number: of this one, from 0.
    """

    coordinator: str
    count: int
    number: int


def initialise(place: Place | None) -> None:
    """Makes this process one of several, and waits for the others; before any other use of JAX.

    Args:
      place: None asks JAX, which knows SLURM, Open MPI, Cloud TPU and Kubernetes.

    Raises:
      InputError: JAX finds no place, or the others do not come.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    given: dict[str, Any] = {}
    if place is not None:
        _require_answer(place)
        given = {
            "coordinator_address": place.coordinator,
            "num_processes": place.count,
            "process_id": place.number,
            "cluster_detection_method": "deactivate",
        }
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=int(PATIENCE_SECONDS),
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
        # All look for devices together, since each waits for those of the others
        jax.devices()
    except (ImportError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"this process cannot join the others of its run: {reason}") from None


def _require_answer(place: Place) -> None:
    """Waits until process 0 listens; JAX would end a process without a word in the end."""
    host, _, port = place.coordinator.rpartition(":")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while place.number:
        try:
            socket.create_connection((host, int(port)), timeout=5.0).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise InputError(
                    f"process 0 does not answer at {place.coordinator} ({error}): start it there,"
                    " with the same number of processes"
                ) from None
            time.sleep(0.2)


def leave() -> None:
    """Waits for the other processes to end too."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def count() -> int:
    """Returns the number of processes of this run."""
    if not jax.distributed.is_initialized():
        return 1
    return jax.process_count()


def leads() -> bool:
    """Tells if this process is the one that looks, decides and writes."""
    return count() == 1 or jax.process_index() == 0


def led(call: Callable[[], Any], *expected: type[Exception]) -> Any:
    """Returns on every process the JSON value of `call()`, which process 0 alone calls.

    All processes make the same calls in the same order. The others wait for process 0 here.

    Raises:
      Exception: that of `call`, on process 0.
      InputError: on the others, unless the exception is one of `expected`, which is raised on all.
    """
    if count() == 1:
        return call()
    key, client = _next_key()
    if not leads():
        answer = json.loads(client.blocking_key_value_get(key, _FOREVER))
        kinds = {kind.__name__: kind for kind in expected}
        if "error" in answer:
            raise kinds.get(answer["error"], InputError)(answer["sentence"])
        return answer["value"]
    try:
        answer = {"value": call()}
    except Exception as error:
        failed = {"error": type(error).__name__, "sentence": str(error)}
        client.key_value_set(key, json.dumps(failed))
        raise
    client.key_value_set(key, json.dumps(answer))
    return answer["value"]


def _next_key() -> tuple[str, Any]:
    """Returns the key of the next answer, and JAX's client; old answers are dropped."""
    # JAX has no public function for this; Orbax and Flax take the client from here, too
    from jax._src import distributed

    client = distributed.global_state.client
    block, number = divmod(next(_numbers), _KEPT)
    if block and not number:
        client.wait_at_barrier(f"xinv/{block}", _FOREVER)
        if leads():
            client.key_value_delete(f"xinv/{block - 1}/")
    return f"xinv/{block}/{number}", client


def say(line: str) -> None:
    """Prints a line to stderr, on process 0 alone."""
    if leads():
        print(line, file=sys.stderr, flush=True)


def alone() -> ocp.options.MultiprocessingOptions:
    """Returns the options by which Orbax reads and writes in this process without the others."""
    if count() == 1:
        return ocp.options.MultiprocessingOptions()
    number = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=number,
        active_processes={number},
        barrier_sync_key_prefix=f"of-{number}",
    )
