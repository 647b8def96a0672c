"""What a result was computed with: versions, devices, time and memory."""

import datetime
import importlib.metadata
import platform
import resource
from typing import Any

import jax

_PACKAGES = ("xinv", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "dm-pix", "ml-collections", "numpy")


def describe() -> dict[str, Any]:
    """Versions of what computes, the devices, the date in UTC, and this process's peak memory in MiB."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "backend": jax.default_backend(),
        "devices": [device.device_kind for device in jax.devices()],
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def _version(package: str) -> str:
    """The installed version; a checkout that is run without being installed has none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
