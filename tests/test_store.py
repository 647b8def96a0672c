"""The store: one result per spec, whole or absent, for one process at a time."""

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from xinv import leases, store
from xinv.audit.stage import Stages, seconds, spent
from xinv.types import InputError


@pytest.fixture
def stages(tmp_path):
    with store.opened(tmp_path / "stages") as opened:
        yield opened


def _compute(stages, spec, value=1.0):
    stage, done = stages.find("square", spec)
    if not done:
        stages.compute(
            stage, spec, lambda folder: store.save_array(folder / "x.npy", np.full(3, value))
        )
    return stage, done


def test_specs_computed_once(stages):
    """A spec is computed once, and another spec apart."""
    first, done = _compute(stages, {"rate": 0.1})
    again, again_done = _compute(stages, {"rate": 0.1}, value=2.0)
    other, other_done = _compute(stages, {"rate": 0.2}, value=3.0)
    assert (done, again_done, other_done) == (False, True, False)
    assert first == again
    assert again.array("x").tolist() == [1, 1, 1]
    assert other.array("x").tolist() == [3, 3, 3]


def test_hash_ignores_order_of_keys():
    """The hash ignores the order of keys and the kind of sequence."""
    assert store.digest({"a": (1, 2), "b": 3}) == store.digest({"b": 3, "a": [1, 2]})
    assert store.digest({"a": 1}) != store.digest({"a": 2})


def test_failed_stage_keeps_checkpoints(stages):
    """A failed stage is absent, and its checkpoints stay for the next try."""
    stage, _ = stages.find("square", {"rate": 0.1})

    def fail(folder):
        (folder / "checkpoints").mkdir()
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        stages.compute(stage, {"rate": 0.1}, fail)
    assert not stage.path.exists()
    assert [*stages.root.glob("square-*.partial/checkpoints")]
    _compute(stages, {"rate": 0.1})
    assert stage.path.is_dir()
    assert not (stage.path / "checkpoints").exists()
    assert list(stages.root.iterdir()) == [stage.path]


def test_trees_and_arrays_survive(tmp_path):
    """Trees and arrays survive to the bit."""
    random = np.random.default_rng(0)
    tree = {
        "params": {"a": random.normal(size=(3, 4)).astype(np.float32), "b": {"c": np.arange(5)}},
        "batch_stats": {},
    }
    store.save_tree(tmp_path / "tree", tree)
    back = store.load_tree(tmp_path / "tree")
    assert back["batch_stats"] == {}
    np.testing.assert_array_equal(back["params"]["a"], tree["params"]["a"])
    np.testing.assert_array_equal(back["params"]["b"]["c"], tree["params"]["b"]["c"])


def test_result_of_another_config(stages):
    """A result of another config is refused."""
    stage, _ = _compute(stages, {"rate": 0.1})
    (stage.path / "spec.json").write_text(json.dumps({"rate": 0.3}))
    with pytest.raises(InputError, match="another config"):
        stages.find("square", {"rate": 0.1})


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY\x01\x00", b"garbage"])
def test_a_damaged_array_is_named(stages, damage):
    stage, _ = _compute(stages, {"rate": 0.1})
    (stage.path / "x.npy").write_bytes(damage)
    with pytest.raises(InputError, match=r"x\.npy is damaged"):
        stage.array("x")


def test_a_damaged_tree_is_named(tmp_path):
    store.save_tree(tmp_path / "tree", {"a": np.arange(4)})
    for file in (tmp_path / "tree").rglob("*"):
        if file.is_file():
            file.write_bytes(b"garbage")
    with pytest.raises(InputError, match="is damaged"):
        store.load_tree(tmp_path / "tree")


def test_two_processes(tmp_path):
    """Two processes do not share a folder."""
    code = (
        "from pathlib import Path; from xinv import leases\nwith"
        f" leases.locked(Path({str(tmp_path)!r})): pass"
    )
    with leases.locked(tmp_path):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another run is using" in other.stderr
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_empty_run_leaves_nothing(tmp_path):
    """A run that leaves nothing leaves no folder."""
    (tmp_path / "own").mkdir()
    locked = (
        leases.locked(tmp_path / "own" / "new" / "stages"),
        leases.locked(tmp_path / "own" / "new"),
    )
    with pytest.raises(InputError, match="typo"), locked[0], locked[1]:
        raise InputError("a typo")
    assert not list((tmp_path / "own").iterdir())
    with leases.locked(tmp_path / "kept"):
        (tmp_path / "kept" / "result").touch()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["result"]


def test_failed_write(tmp_path):
    """A failed write leaves the old content."""
    path = tmp_path / "rows.jsonl"
    store.write_text(path, "old")

    def half():
        with store.atomic(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        half()
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


def test_full_disk(tmp_path, monkeypatch):
    """A full disk is named before anything is written.

    One sentence, where Orbax would print a traceback for every file it cannot write.
    """
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(InputError, match="1000 bytes are free on the device"):
        store.save_tree(tmp_path / "tree", {"a": np.zeros(1000)})
    assert not list(tmp_path.iterdir())


def test_seconds_of_stages_within_others(stages, tmp_path, monkeypatch):
    """A stage's seconds are without those of the stages that it builds on the way."""
    made = Stages(stages, tmp_path)
    now = [0.0]
    monkeypatch.setattr("xinv.audit.stage.time", SimpleNamespace(monotonic=lambda: now[0]))

    def wait(duration, *within):
        def compute():
            for name, other in within:
                made.computed(name, name, {}, other)
            now[0] += duration
            return {"x": np.zeros(1)}

        return compute

    made.computed("outer", "", {}, wait(1.0, ("first", wait(4.0)), ("next", wait(2.0))))
    names = {path.name.split("-")[0]: path.name for path in stages.root.glob("*-*")}
    own = {name: seconds(stages.root, path) for name, path in names.items()}
    assert own == {"outer": 1, "first": 4, "next": 2}
    # All of it, also if a second run asks for the outer one alone
    assert spent(stages.root, [names["outer"]]) == 7
    assert spent(stages.root, [names["outer"]], without=[names["first"]]) == 3
