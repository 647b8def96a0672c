"""TensorBoard scalars, written in the caller's thread so that a full disk is an error and never a hang."""

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter


class Scalars:
    """One event file below `folder`, begun with the first scalar. A context manager."""

    def __init__(self, folder: Path):
        self._folder, self._writer = folder, None

    def __enter__(self) -> "Scalars":
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds {tag: value} at `step`. Raises OSError where the disk does not take it."""
        if self._writer is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._writer = RecordWriter(str(self._folder / f"events.out.tfevents.{time.time_ns()}"))
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._writer.write(Event(wall_time=time.time(), step=step, summary=summary).SerializeToString())
