"""TensorBoard scalars, written in the caller's thread: a full disk is an error, never a hang."""

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter


class Scalars:
    """One event file below `folder`, begun with the first scalar. A context manager."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._writer = None

    def __enter__(self) -> "Scalars":
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds {tag: value} at `step`.

        Raises:
          OSError: the disk does not take it.
        """
        # A training that writes nothing leaves no file
        if self._writer is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"events.out.tfevents.{time.time_ns()}"
            self._writer = RecordWriter(str(path))
        summary = Summary()
        for tag, value in values.items():
            summary.value.add(tag=tag, simple_value=value)
        event = Event(wall_time=time.time(), step=step, summary=summary)
        self._writer.write(event.SerializeToString())
