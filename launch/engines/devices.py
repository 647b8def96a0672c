"""The devices of this machine, found without a client of JAX, which would hold them all."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple


class Slot(NamedTuple):
    """A place for one process: the variables of its device, and the cores that it may use."""

    environment: dict[str, str]
    cores: tuple[int, ...] = ()


def gpus() -> list[dict[str, str]]:
    """The variables that show a process one GPU each."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    # Respect GPUs chosen by a person or a scheduler
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None and shutil.which("nvidia-smi"):
        listed = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True
        ).stdout
        named = ",".join(
            str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU")
        )
    found = []
    # An empty value or -1 hides all GPUs
    for device in (named or "").split(","):
        if device not in ("", "-1"):
            found.append({"CUDA_VISIBLE_DEVICES": device})
    return found


def tpus() -> list[dict[str, str]]:
    """The variables that show a process one chip of a TPU host each."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    # Some TPU hosts list their chips in /dev, others in /dev/vfio
    chips = sorted(Path("/dev").glob("accel[0-9]*")) or sorted(Path("/dev/vfio").glob("[0-9]*"))
    # Each process has a topology of its own, of one chip
    one = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
    found = []
    for n in range(len(chips)):
        found.append({"TPU_VISIBLE_DEVICES": str(n), "TPU_VISIBLE_CHIPS": str(n), **one})
    return found
