"""A process that is one of several of a run: how it joins the others, and how it leaves them."""

import contextlib
import ctypes
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator

import cli
import jax

from engines.peers import GRACE
from xinv import parallel, processes
from xinv.processes import Place
from xinv.types import InputError

_CONNECTION = re.compile("Gloo|NCCL|UNAVAILABLE|coordination service", re.IGNORECASE)
"""In the errors by which JAX tells that another process is gone."""
_DETECTED = "SLURM (in srun), Open MPI, Cloud TPU or Kubernetes"


@contextlib.contextmanager
def joined(place: Place | None) -> Iterator[None]:
    """Makes this process one of several; at the end it waits for the others, unless it has failed.

    Raises:
      InputError: see `processes.initialise`.
    """
    # Gloo tells stdout of each connection
    with _without_stdout():
        try:
            processes.initialise(place)
        except InputError as error:
            if place is not None:
                raise
            raise InputError(
                f"--multiprocess is for processes that {_DETECTED} has started; give --processes=N"
                f" to start them here ({error})"
            ) from None
    try:
        # Connect now, so that these lines are silenced too
        with _without_stdout():
            parallel.places()
        yield
    except Exception as error:
        # The others may wait for this process, and at a usual exit JAX would wait for them
        _fail(error)
    finally:
        # Here all come: at the end, and when they were told to leave
        processes.leave()


def _fail(error: Exception) -> None:
    """Ends this process at once with a sentence, or with the traceback of a program's fault."""
    sentence = cli.sentence(error)
    status = 2
    if isinstance(error, jax.errors.JaxRuntimeError) and _CONNECTION.search(str(error)):
        # A parent knows more, and ends this process meanwhile
        time.sleep(GRACE)
        first = str(error).partition("\n")[0]
        sentence = f"lost another process, and the same command continues the run: {first}"
        status = cli.AGAIN
    if sentence is None:
        traceback.print_exception(error)
        status = 1
    else:
        print(f"error: {sentence}", file=sys.stderr)
    sys.stderr.flush()
    os._exit(status)


@contextlib.contextmanager
def _without_stdout() -> Iterator[None]:
    sys.stdout.flush()
    # Redirect the descriptor: C code does not print by sys.stdout
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        # C keeps lines of its own back
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
