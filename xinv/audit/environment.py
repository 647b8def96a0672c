"""The environment of a result: versions, devices, time and memory."""

import datetime
import importlib.metadata
import platform
import resource
from typing import Any

import jax

_PACKAGES = (
    "xinv",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "dm-pix",
    "ml-collections",
    "numpy",
)


def describe() -> dict[str, Any]:
    """Returns versions, devices, the date in UTC, and this process's peak memory in MiB."""
    # Taken at the end of a run, so that the peak is of all of it
    now = datetime.datetime.now(datetime.UTC)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux
    return {
        "date": now.isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "backend": jax.default_backend(),
        "devices": [device.device_kind for device in jax.devices()],
        "peak_memory_mib": round(peak / 1024),
    }


def _version(package: str) -> str:
    """Returns the installed version; a checkout may run without one."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
