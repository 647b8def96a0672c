"""Settings of every test."""

import os
import tempfile
from pathlib import Path

import jax
import pytest

_MAPS = Path("/proc/self/maps")
_MOST_MAPS = 15_000
_STRICT = (
    "test_attacks",
    "test_defences",
    "test_metrics",
    "test_models",
    "test_parallel",
    "test_train",
)
"""Files, by how their names begin, in which no dtype and no rank is promoted implicitly.

Explainers are tested on functions as users write them, and audits run explainers.
"""
_PIPELINE = (
    "test_audit",
    "test_audit_deepleak",
    "test_audit_membership",
    "test_audit_own",
    "test_processes",
)
_LONGEST = (
    *_PIPELINE,
    "test_sweep_launch",
    "test_attacks_trained",
    "test_explain_modern",
    "test_explain_walked",
    "test_defences_gnime",
    "test_audit_rows",
)
"""Files that take over a minute, which a worker that starts them last would take alone."""


def pytest_configure(config):
    """Keeps compiled programs in a folder of this process, for it and for the programs that its
    tests start.

    Every audit compiles the networks of its arms anew, of which many are alike. Workers share no
    folder: JAX's writes are not atomic, and what one of two writers leaves half-written would be a
    warning, hence an error, of the other.
    """
    config.programs = tempfile.TemporaryDirectory(prefix="xinv-programs-")
    settings = dict(
        jax_compilation_cache_dir=config.programs.name,
        jax_persistent_cache_min_compile_time_secs=0,
        jax_persistent_cache_min_entry_size_bytes=-1,
    )
    for name, value in settings.items():
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)


def pytest_unconfigure(config):
    config.programs.cleanup()


@pytest.fixture(scope="module", autouse=True)
def _promotion(request):
    """Refuses implicit promotion, which hides wrong dtypes and axes that line up by chance."""
    if not request.path.stem.startswith(_STRICT):
        yield
        return
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def pytest_collection_modifyitems(items):
    """Puts the longest files first; launch/test.sh hands them to its workers in this order."""
    items.sort(key=lambda item: item.path.stem not in _LONGEST)


@pytest.fixture(scope="module", autouse=True)
def _programs(request):
    """Compiles the pipeline without optimisations, and frees programs between files before memory
    maps run out.

    Files of the pipeline test what is computed from what, what is kept and what is refused; most of
    their time is XLA's. What a program computes is tested elsewhere, as it is optimised for users;
    `test_audit_rows` audits so from end to end. One level within a file: a program of the other
    would round otherwise.

    A program holds three or four maps, and XLA dies of more than the 65,530 that a process may
    have. Programs that are freed after every file are compiled again in the next, small ones of
    single operations above all.
    """
    unoptimised = request.path.stem in _PIPELINE
    if unoptimised != jax.config.read("jax_disable_most_optimizations"):
        jax.config.update("jax_disable_most_optimizations", unoptimised)
        jax.clear_caches()
    yield
    if _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > _MOST_MAPS:
        jax.clear_caches()
