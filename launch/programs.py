"""Compiled programs on disk, so that a second start compiles nothing."""

import hashlib
import importlib
import os
import platform
import time
import zlib
from pathlib import Path

_OWN = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")
"""Variables of a person's own choice of a cache."""
_CHECKED = ".checked"  # touched after each check
_DAYS = 90  # programs older than this are removed; one still in use is compiled once more
_ZSTANDARD = b"\x28\xb5\x2f\xfd"  # how what it has compressed begins


def keep() -> Path | None:
    """Lets JAX keep its compiled programs in $XDG_CACHE_HOME/xinv.

    There is a folder per version of XLA and type of processor: another processor would run a
    program of this one wrongly, or not at all.

    Returns:
      The folder; None if JAX's own variables choose a cache, or nothing can be written.
    """
    if any(name in os.environ for name in _OWN):
        return None
    import jax  # after the flags: a typo is reported at once
    import jaxlib

    # Compile each time if there is no home or nothing can be written
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(home) / "xinv" / f"{jaxlib.__version__}-{_processor()}"
        folder.mkdir(parents=True, exist_ok=True)
        heal(folder)
    except (OSError, RuntimeError):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # By default only programs that take a second are kept: most of ours do not, and are many
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


def heal(folder: Path) -> None:
    """Removes half-written programs of killed processes, and old ones.

    JAX neither writes an entry in one step nor replaces one that it cannot read.
    """
    # Programs from before the last check are whole, so each is read once.
    now = time.time()
    stamp = folder / _CHECKED
    checked = stamp.stat().st_mtime if stamp.exists() else 0.0
    for entry in folder.glob("*-cache"):
        try:
            written = entry.stat().st_mtime
            # By default JAX removes nothing.
            old = now - written > _DAYS * 24 * 3600
            if old or (written >= checked and not _is_whole(entry.read_bytes())):
                entry.unlink()
        except FileNotFoundError:
            continue  # another process heals too
    # The time at the start: what was written meanwhile is checked next time.
    stamp.touch()
    os.utime(stamp, (now, now))


def _is_whole(content: bytes) -> bool:
    """True if a program can be decompressed."""
    if not content.startswith(_ZSTANDARD):
        try:
            zlib.decompress(content)
        except zlib.error:
            return False
        return True
    # The libraries that JAX may have compressed with; without any the program counts as whole
    for name in ("compression.zstd", "zstandard"):
        try:
            library = importlib.import_module(name)
        except ImportError:
            continue
        decompress = getattr(library, "decompress", None) or library.ZstdDecompressor().decompress
        try:
            decompress(content)
        except library.ZstdError:
            return False
        return True
    return True


def _processor() -> str:
    """Hashes the kind of processor: XLA compiles for its instructions alone."""
    # Linux lists the instructions of the processor; elsewhere its name must do.
    described = [platform.machine()]
    table = Path("/proc/cpuinfo")
    if table.exists():
        lines = table.read_text().splitlines()
        described += [line for line in lines if line.startswith(("flags", "Features"))][:1]
    else:
        described.append(platform.processor())
    return hashlib.sha256("\n".join(described).encode()).hexdigest()[:12]
