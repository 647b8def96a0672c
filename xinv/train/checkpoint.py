"""Checkpoints of one training, by Orbax: the two newest states, readable after any kill.

Of several processes the first alone writes and reads them, and tells the others what it has read.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from xinv import parallel, processes
from xinv.store import writing
from xinv.types import InputError


class Saved(NamedTuple):
    """The content of a checkpoint.

    Attributes:
      tree: a pytree of numpy arrays.
      record: JSON values.
    """

    tree: Any
    record: dict[str, Any]


class Checkpoints:
    """The checkpoints in `directory` of the training `identity`; None keeps none.

    Args:
      directory: a folder of their own; created by the first save.
      identity: JSON values that describe the training. A checkpoint of another identity is never
        read or replaced.
    """

    def __init__(self, directory: str | Path | None, identity: dict[str, Any]):
        self._directory = None
        if directory is not None:
            self._directory = Path(directory).absolute()
        self._identity = identity
        self._manager: ocp.CheckpointManager | None = None

    def latest(self, template: Any) -> Saved | None:
        """Returns the newest checkpoint as `template`'s structure, or None if there is none.

        If it cannot be read (truncated, corrupt) but the one before it can, it is removed.

        Raises:
          InputError: none is readable though there are some, or they belong to another training.
        """
        # What the first process finds; the others read no file
        read: list[Saved] = []
        record = processes.led(lambda: self._found(template, read))
        if record is None:
            return None
        tree = parallel.broadcast(read[0].tree if read else template)
        return Saved(tree, record)

    def _found(self, template: Any, read: list[Saved]) -> dict[str, Any] | None:
        """Adds the newest checkpoint to `read` and returns its record; None if there is none."""
        if self._directory is None or not self._directory.exists():
            return None
        # The newest that can be read: a kill may have left damaged ones
        unreadable = []
        for step in sorted(self._open().all_steps(), reverse=True):
            about, arrays = self._read(step)
            if arrays is None:
                unreadable.append(step)
                continue
            self._check(about, template)
            for newer in unreadable:
                self._open().delete(newer)
            tree = jax.tree.unflatten(jax.tree.structure(template), arrays)
            read.append(Saved(tree, about["record"]))
            return about["record"]
        if unreadable:
            raise InputError(
                f"no checkpoint in {self._directory} is readable: "
                "delete that folder to start afresh"
            )
        return None

    def save(
        self,
        step: int,
        tree: Any,
        record: dict[str, Any],
    ) -> None:
        """Writes a checkpoint; a kill during it leaves the one before it intact."""
        if self._directory is not None:
            # The others wait, and learn of an error
            processes.led(lambda: self._write(step, tree, record))

    def _write(self, step: int, tree: Any, record: dict[str, Any]) -> None:
        # Orbax keeps arrays by name, and a flat dict needs no structure to be read again
        arrays = {}
        for number, leaf in enumerate(jax.tree.leaves(tree)):
            arrays[_name(number)] = leaf
        about = {
            "identity": self._identity,
            "arrays": _describe(tree),
            "record": record,
        }
        args = ocp.args.Composite(
            about=ocp.args.JsonSave(about),
            arrays=ocp.args.StandardSave(arrays),
        )
        with writing(self._directory, tree):
            self._open().save(step, args=args, force=True)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        if self._manager is not None:
            self._manager.close()

    def _open(self) -> ocp.CheckpointManager:
        # Opened by the first use: a training without checkpoints makes no folder
        if self._manager is None:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=2,
                cleanup_tmp_directories=True,
                # A save that has returned is on disk
                enable_async_checkpointing=False,
                # Orbax creates no folder for some of several processes
                create=False,
                multiprocessing_options=processes.alone(),
            )
            self._directory.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(self._directory, options=options)
        return self._manager

    def _read(self, step: int) -> tuple[dict[str, Any], list[np.ndarray] | None]:
        """Returns the description of a checkpoint, and its arrays; None if it is unreadable."""
        manager = self._open()
        try:
            # The description has the shapes, by which Orbax restores the arrays
            wanted = ocp.args.Composite(about=ocp.args.JsonRestore())
            about = manager.restore(step, args=wanted)["about"]
            template = {}
            for number, (_, shape, dtype) in enumerate(about["arrays"]):
                template[_name(number)] = np.zeros(shape, dtype)
            wanted = ocp.args.Composite(arrays=ocp.args.StandardRestore(template))
            arrays = manager.restore(step, args=wanted)["arrays"]
        except Exception:
            # Orbax raises whatever its readers raise: the caller tries the one before, or reports
            return {}, None
        return about, [arrays[name] for name in sorted(arrays)]

    def _check(self, about: dict[str, Any], template: Any) -> None:
        # Another recipe, key, data or network would continue as something else
        present = dict(self._identity)
        for path, *kind in _describe(template):
            present[path] = kind
        stored = dict(about["identity"])
        for path, *kind in about["arrays"]:
            stored[path] = kind
        for name in present | stored:
            was = stored.get(name)
            now = present.get(name)
            if was != now:
                raise InputError(
                    f"the checkpoint in {self._directory} belongs to another training "
                    f"({name} was {was!r} and is {now!r}): delete that folder or use another"
                )


def _name(number: int) -> str:
    return f"{number:05d}"


def _describe(tree: Any) -> list[list[Any]]:
    """Returns [path, shape, dtype] of every leaf, as JSON values."""
    described = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path)
        dtype = np.asarray(leaf).dtype
        described.append([name, list(np.shape(leaf)), str(dtype)])
    return described
