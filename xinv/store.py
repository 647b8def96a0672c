"""Content-addressed results of stages, computed once under a hash of all their inputs.

A stage's folder is `stages/<name>-<hash>/`. It is built as `….partial`, with the checkpoints of a
training inside, so that a killed run continues. It is renamed when complete: a folder without this
ending is always whole. Any number of runs may share a store; the holder of a stage's lease
builds it. Of the processes of one run the first alone looks for a stage, holds its lease and
writes; the others read what it has completed.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from xinv import processes
from xinv.leases import Busy, Leases, require_exclusive
from xinv.types import InputError

_FORMAT = 4
"""Part of every hash. Raise it when a stage's meaning changes: old results are then ignored."""


_MARGIN = 1 << 18
"""Upper bound in bytes of the names, shapes and indices in a checkpoint, besides its arrays."""


class Stage(NamedTuple):
    """A complete result: its folder, and its hash for the specs of later stages."""

    path: Path
    digest: str

    def array(self, name: str, mmap: bool = True) -> np.ndarray:
        """Reads the array saved as `name`, lazily unless `mmap` is False."""
        return load_array(self.path / f"{name}.npy", mmap)

    def tree(self, name: str) -> Any:
        """Reads the pytree of NumPy arrays saved as `name`."""
        return load_tree(self.path / name)

    def json(self, name: str) -> Any:
        """Reads the JSON value saved as `name`."""
        return read_json(self.path / f"{name}.json", _recompute(self.path))


class Lost(Exception):  # noqa: N818 (an event, not a mistake)
    """The process was suspended, and another took over its stage: its own work is dropped."""


class Store(NamedTuple):
    """The stages below `root`, shared with other processes by `leases`."""

    root: Path
    leases: Leases

    def find(self, name: str, spec: Mapping[str, Any]) -> tuple[Stage, bool]:
        """Returns the stage determined by `spec`, and True if its result is complete.

        Raises:
          InputError: the stored result was made from another spec (a folder was copied or edited by
            hand).
        """
        stage = Stage(self.root / f"{name}-{digest(spec)}", digest(spec))
        asked, done = processes.led(lambda: (stage.path.name, _is_there(stage, spec)))
        if asked != stage.path.name:
            raise InputError(
                f"this process asks for {stage.path.name} and the first one of the run for {asked}:"
                " all of them need the same config and the same data"
            )
        return stage, done

    def compute(
        self,
        stage: Stage,
        spec: Mapping[str, Any],
        build: Callable[[Path], None],
    ) -> None:
        """Calls `build(folder)`, then turns the folder into the stage's in one atomic step.

        `build` saves the result there. Its files under `folder/checkpoints` survive a kill and are
        dropped on completion. Nothing is built if another process has completed the stage
        meanwhile.

        Raises:
          Busy: another process builds it.
          Lost: another process has taken it over, since this one was suspended.
        """
        with contextlib.ExitStack() as stack:
            folder = processes.led(lambda: stack.enter_context(self._begun(stage, spec)), Busy)
            if folder is not None:
                build(Path(folder))
            # The others may read the result once the first process has left the context
            processes.led(stack.close, Lost)

    @contextlib.contextmanager
    def _begun(self, stage: Stage, spec: Mapping[str, Any]) -> Iterator[str | None]:
        """Yields a folder to build `stage` in, under its lease; None if it is there.

        The folder becomes the stage's if the context ends well.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with self.leases.hold(_marker(stage.path)):
            # Only this look counts: another process may have completed it after an earlier one
            if stage.path.is_dir():
                yield None
                return
            partial = _taken(stage)
            # Remember the folder's identity: a process that takes over renames it
            held = os.stat(partial)
            write_json(partial / "spec.json", json.loads(canonical(spec)))
            yield str(partial)
            _publish(partial, held, stage)

    def tidy(self) -> None:
        """Removes the remains of killed processes from complete stages."""
        if not processes.leads():
            return
        # A look at a lease removes the marker of a dead holder
        for marker in self.root.glob("*.lease"):
            self.leases.is_held(marker)
        # A partial folder beside a complete stage is of no use
        for partial in self.root.glob("*.partial"):
            if (self.root / partial.name.partition(".")[0]).is_dir():
                shutil.rmtree(partial, ignore_errors=True)


def _is_there(stage: Stage, spec: Mapping[str, Any]) -> bool:
    if not stage.path.is_dir():
        return False
    # Compare the JSON form of both, where tuples and lists are the same
    if read_json(stage.path / "spec.json", _recompute(stage.path)) != json.loads(canonical(spec)):
        raise InputError(
            f"{stage.path} holds the result of another config than its name says: delete that"
            " folder"
        )
    return True


def _marker(path: Path) -> Path:
    return path.with_name(path.name + ".lease")


def _taken(stage: Stage) -> Path:
    """Returns a folder to build `stage` in, with the checkpoints of an earlier attempt.

    Its name is new: a suspended process without its lease no longer finds its own folder.
    """
    partial = stage.path.with_name(f"{stage.path.name}.{uuid.uuid4().hex[:8]}.partial")
    # Continue the latest attempt, drop the others
    begun = sorted(
        stage.path.parent.glob(f"{stage.path.name}*.partial"), key=lambda path: path.stat().st_mtime
    )
    if begun:
        os.rename(begun.pop(), partial)
    for older in begun:
        shutil.rmtree(older, ignore_errors=True)
    partial.mkdir(exist_ok=True)
    # Keep the checkpoints alone: other files may be incomplete
    for path in partial.iterdir():
        if path.name != "checkpoints":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return partial


def _publish(partial: Path, held: os.stat_result, stage: Stage) -> None:
    """Turns the folder `partial`, known as `held` from the start, into the result of `stage`."""
    try:
        if not os.path.samestat(os.stat(partial), held):
            raise FileNotFoundError
        # The rename is the commit: whole before it, whole after it
        shutil.rmtree(partial / "checkpoints", ignore_errors=True)
        os.rename(partial, stage.path)
    except FileNotFoundError:
        raise Lost(
            f"{stage.path} was taken over by another process while this one was suspended"
        ) from None
    except OSError as error:
        # Another process was first: its result is equal
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(partial)
    _sync_folder(stage.path.parent)


@contextlib.contextmanager
def opened(root: Path, lost: Callable[[Path], None] | None = None) -> Iterator[Store]:
    """Opens the store at `root`, and tidies it at the end.

    Args:
      root: its folder; made when the first stage is computed.
      lost: called with the path of a lost lease, see `Leases`.

    Raises:
      InputError: the file system cannot be shared.
    """
    require_exclusive(root)
    store = Store(root, Leases(lost))
    yield store
    store.tidy()


def canonical(value: Any) -> str:
    """Returns one JSON text per value: sorted keys, tuples as lists."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def digest(spec: Mapping[str, Any]) -> str:
    """Returns the hash of `spec`, 16 hex digits."""
    return hashlib.sha256(canonical([_FORMAT, spec]).encode()).hexdigest()[:16]


def read_json(path: Path, remedy: str = "delete it and run again") -> Any:
    """Reads a JSON value from a file.

    Args:
      path: the file.
      remedy: the end of the error message, a way out.

    Raises:
      InputError: the file is damaged or missing.
    """
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, FileNotFoundError) as error:
        raise InputError(f"{path} is damaged ({error}): {remedy}") from None


def write_json(path: Path, value: Any) -> None:
    """Writes `value` atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes `text` atomically: readers see the old content or the new one, never a part."""
    if not processes.leads():
        return
    with atomic(path) as temporary:
        temporary.write_text(text)


def save_array(path: Path, array: np.ndarray) -> None:
    """Saves one array as .npy, atomically."""
    if not processes.leads():
        return
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.save(file, np.asarray(array), allow_pickle=False)


def create_array(path: Path, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Creates a .npy file to be filled in place; complete only once its stage is.

    Of several processes all may fill it; what others than the first write is dropped.

    Raises:
      OSError: the disk is full.
    """
    if not processes.leads():
        # All elements are one, so that the array takes no memory
        return np.lib.stride_tricks.as_strided(np.zeros(1, dtype), shape, (0,) * len(shape))
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    # Allocate all pages: a write to a sparse file on a full disk would kill the process (SIGBUS)
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
    return array


def load_array(path: Path, mmap: bool = True) -> np.ndarray:
    """Loads one array from .npy, lazily unless `mmap` is False.

    Raises:
      InputError: the file is damaged or missing.
    """
    try:
        return np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except (ValueError, EOFError, FileNotFoundError) as error:
        raise InputError(f"{path} is damaged ({error}): {_recompute(path.parent)}") from None


def save_tree(path: Path | str, tree: Any) -> None:
    """Saves a pytree of arrays with Orbax."""
    if not processes.leads():
        return
    path = Path(path)
    # Orbax needs absolute paths, and NumPy leaves make the file independent of devices
    with writing(path, tree), _checkpointer() as checkpointer:
        checkpointer.save(
            path.absolute(),
            jax.tree.map(np.asarray, tree),
            force=True,
        )


def load_tree(path: Path | str) -> Any:
    """Loads a pytree of NumPy arrays.

    Raises:
      InputError: the checkpoint is damaged or missing.
    """
    path = Path(path)
    try:
        with _checkpointer() as checkpointer:
            return jax.tree.map(np.asarray, checkpointer.restore(path.absolute()))
    except (ValueError, KeyError, FileNotFoundError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is damaged ({reason}): {_recompute(path.parent)}") from None


def _checkpointer() -> ocp.StandardCheckpointer:
    return ocp.StandardCheckpointer(multiprocessing_options=processes.alone())


@contextlib.contextmanager
def writing(path: Path, tree: Any) -> Iterator[None]:
    """Lets Orbax write `tree` to `path` if there is room; on a full disk it floods the terminal.

    Raises:
      InputError: the device takes no more data.
    """
    # Twice the arrays: Orbax merges its files into a copy
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    needed = 2 * sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(tree)) + _MARGIN
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"cannot write {path}: {free} bytes are free on the device, {needed} are needed"
        )
    try:
        yield
    except (OSError, ValueError) as error:
        # Other processes may fill the disk meanwhile; any other error is a bug and stays
        if not any(
            sign in str(error)
            for sign in ("RESOURCE_EXHAUSTED", "No space left", "PERMISSION_DENIED")
        ):
            raise
        raise InputError(f"cannot write {path}: the device is full or read-only") from error


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; moves it there, flushed, if the block succeeds."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield temporary
        # Flush before the rename, or a power cut could leave an empty file under the final name
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _recompute(folder: Path) -> str:
    return f"delete {folder} to compute it again"


def _sync_folder(folder: Path) -> None:
    # The rename itself is durable only once its folder is flushed
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
