"""Compiled programs on disk: a second start compiles nothing, and what is damaged is mended."""

import importlib.util
import os
import subprocess
import sys
import time
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SPEC = importlib.util.spec_from_file_location("programs", ROOT / "launch" / "programs.py")
programs = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(programs)

STARTS = """
import sys, warnings
sys.path.insert(0, "launch")
import jax, jax.numpy as jnp
import programs

warnings.simplefilter("error")
missed = []

def listen(event, **_):
    if "cache_misses" in event:
        missed.append(event)

jax.monitoring.register_event_listener(listen)

def start():
    jax.clear_caches()
    missed.clear()
    folder = programs.keep()
    for scale in (2.0, 3.0):
        jax.jit(lambda x: scale * x)(jnp.ones(3)).block_until_ready()
    return folder, len(missed)

folder, first = start()
_, second = start()
entry = max(folder.glob("jit__lambda*-cache"), key=lambda path: path.stat().st_size)
entry.write_bytes(entry.read_bytes()[:-9])
print(first, second, start()[1], start()[1])
"""


def test_second_start_compiles_nothing(tmp_path):
    """All programs are kept, and an entry that a kill has cut short is compiled once, without a
    warning.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", STARTS]
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    first, second, healed, last = map(int, result.stdout.split())
    assert first >= 2
    assert (second, healed, last) == (0, 1, 0)


def test_damaged_and_old_entries_removed(tmp_path):
    """Only entries since the last check are read again; those of long ago are removed."""
    whole = zlib.compress(bytes(1000))
    contents = {
        "whole-cache": whole,
        "cut-cache": whole[:-3],
        "empty-cache": b"",
        "old-cache": whole,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    os.utime(tmp_path / "old-cache", (0, time.time() - 100 * 24 * 3600))
    programs.heal(tmp_path)
    assert [path.name for path in tmp_path.glob("*-cache")] == ["whole-cache"]


def test_own_settings_win(tmp_path, monkeypatch):
    """Nothing is set where someone has set JAX's own variables, or no folder can be written."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "own"))
    assert programs.keep() is None
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.delenv("JAX_ENABLE_COMPILATION_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert programs.keep() is None
