"""Checkpoints of one training, by Orbax: the two newest states, readable again after a kill at any moment."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from xinv.store import writing
from xinv.types import InputError


class Saved(NamedTuple):
    """What a checkpoint holds: a pytree of numpy arrays, and a record of JSON values."""

    tree: Any
    record: dict[str, Any]


class Checkpoints:
    """The checkpoints in `directory` of the training that `identity` describes; without a directory there are none.

    Args:
      directory: a folder of their own; created by the first save.
      identity: JSON values that say what is trained. A checkpoint of another identity is never read or replaced.
    """

    def __init__(self, directory: str | Path | None, identity: dict[str, Any]):
        self._directory = None if directory is None else Path(directory).absolute()
        self._identity = identity
        self._manager: ocp.CheckpointManager | None = None

    def latest(self, template: Any) -> Saved | None:
        """The newest checkpoint as `template`'s structure, or None if there is none.

        One that cannot be read (truncated, corrupt) is removed where the one before it can.

        Raises:
          InputError: none is readable though there are some, or they belong to another training.
        """
        if self._directory is None or not self._directory.exists():
            return None
        unreadable = []
        for step in sorted(self._open().all_steps(), reverse=True):
            about, arrays = self._read(step)
            if arrays is None:
                unreadable.append(step)
                continue
            self._check(about, template)
            for newer in unreadable:
                self._open().delete(newer)
            return Saved(jax.tree.unflatten(jax.tree.structure(template), arrays), about["record"])
        if unreadable:
            raise InputError(f"no checkpoint in {self._directory} is readable: delete that folder to start afresh")
        return None

    def save(self, step: int, tree: Any, record: dict[str, Any]) -> None:
        """Writes a checkpoint; a kill during it leaves the one before it intact."""
        if self._directory is None:
            return
        about = {"identity": self._identity, "arrays": _describe(tree), "record": record}
        arrays = {_name(i): leaf for i, leaf in enumerate(jax.tree.leaves(tree))}
        args = ocp.args.Composite(about=ocp.args.JsonSave(about), arrays=ocp.args.StandardSave(arrays))
        with writing(self._directory, tree):
            self._open().save(step, args=args, force=True)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        if self._manager is not None:
            self._manager.close()

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=2, cleanup_tmp_directories=True, enable_async_checkpointing=False
            )
            self._manager = ocp.CheckpointManager(self._directory, options=options)
        return self._manager

    def _read(self, step: int) -> tuple[dict[str, Any], list[np.ndarray] | None]:
        """What is known about the checkpoint of `step`, and its arrays; None where it cannot be read."""
        manager = self._open()
        try:
            about = manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
            template = {_name(i): np.zeros(shape, dtype) for i, (_, shape, dtype) in enumerate(about["arrays"])}
            args = ocp.args.Composite(arrays=ocp.args.StandardRestore(template))
            arrays = manager.restore(step, args=args)["arrays"]
        except Exception:  # Orbax raises whatever its readers raise; the caller falls back on the one before or reports
            return {}, None
        return about, [arrays[name] for name in sorted(arrays)]

    def _check(self, about: dict[str, Any], template: Any) -> None:
        present = {**self._identity, **{path: kind for path, *kind in _describe(template)}}
        stored = {**about["identity"], **{path: kind for path, *kind in about["arrays"]}}
        for name in {**present, **stored}:
            if present.get(name) != stored.get(name):
                raise InputError(
                    f"the checkpoint in {self._directory} belongs to another training ({name} was {stored.get(name)!r} "
                    f"and is {present.get(name)!r}): delete that folder or use another"
                )


def _name(number: int) -> str:
    return f"{number:05d}"


def _describe(tree: Any) -> list[list[Any]]:
    """[path, shape, dtype] of every leaf, as JSON values."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [[jax.tree_util.keystr(path), [*np.shape(leaf)], str(np.asarray(leaf).dtype)] for path, leaf in leaves]
