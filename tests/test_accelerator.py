"""`launch/bench_accelerator.py`: its checks hold, and an item that fails costs no other row."""

import json
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from launched import launch

pytestmark = pytest.mark.slow

LAUNCH = Path(__file__).parents[1] / "launch"


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(LAUNCH)


def test_results_are_correct(monkeypatch):
    """The device agrees with float64, and neither a wrong result nor NaN would pass."""
    import bench_correct

    # On CPU both precisions are float32
    monkeypatch.setattr(bench_correct, "TOLERANCES", {"highest": 1e-3})
    rows = list(bench_correct.run(4, 1 / 16))
    assert len(rows) == 4
    for row in rows:
        assert row.note.endswith("holds")
        assert row.xinv < 2e-5
    wanted = np.ones(4)
    for wrong in (wanted * 1.01, wanted * np.nan, -wanted):
        note = bench_correct._row("maps", "highest", wrong, wanted).note
        assert note.endswith(bench_correct.FAILED)


@pytest.fixture(scope="module")
def target():
    """A small network, and its training."""
    sys.path.insert(0, str(LAUNCH))
    import bench_training as bench
    from bench_networks import examples, networks

    network = networks(1 / 16)["target"]
    yield network, bench.plain(network, "float32", examples(4))
    sys.path.remove(str(LAUNCH))


def test_training_rows(target):
    """A step has its rate, fractions, memory and time to compile; operations are as counted."""
    import bench_training as bench
    from bench_networks import forward_operations

    network, training = target
    how = bench.Bench(4, 1, 1, {"float32": bench.Rates(1e12, 1e12)}, False)
    row = bench.compared("target", "float32", training, None, how)
    assert min(row.xinv, row.copy, row.mib, row.compile) > 0
    operations = row.product * 1e12 / row.xinv
    assert operations == pytest.approx(3 * forward_operations(network), rel=0.2)


def test_seeds_are_trained_apart(target):
    """Vmapped seeds take the steps that each would take alone."""
    import bench_training as bench
    import jax

    from xinv import parallel

    one, key, results = target[1], jax.random.key(1), []
    for training in (one, bench.seeds(one, 2)):
        program = parallel.pmap_step(training.step)
        batch = parallel.shard(dict(training.data))
        state, _ = program(parallel.replicate(training.state), batch, parallel.per_device(key))
        results.append(state.variables["params"])
    for alone, stacked in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(stacked, np.stack([alone] * 2), rtol=1e-4, atol=1e-6)


SCRIPT = """
import json, os, sys, time
file = open(sys.argv[2], "w")
def note(**event):
    print(json.dumps(event), file=file, flush=True)
for name in sys.argv[1].split(","):
    note(event="begin", item=name, device="cpu")
    note(event="row", item=name, row={"name": name + " is measured", "xinv": 2.0}, device="cpu")
    print("noise on stdout")
    if name == "hangs":
        print('{"event": "row", "item": "ha', end="", file=file, flush=True)
        time.sleep(60)
    if name == "raises":
        raise MemoryError("no memory\\n")
    if name == "dies":
        os.kill(os.getpid(), 9)
    note(event="end", item=name, seconds=1.0)
"""


def test_failures_lose_nothing(tmp_path, capsys):
    """Items that hang, raise or die are named with the reason; all rows are in the file."""
    from bench_accelerator import Watch

    items = ["first", "hangs", "raises", "dies", "last"]
    limits = dict.fromkeys(items, 20.0) | {"hangs": 0.5}
    watch = Watch(tmp_path, limits, time.monotonic() + 60)
    watch.run(lambda names, events: [sys.executable, "-c", SCRIPT, ",".join(names), str(events)])
    found = [(row.name, row.note) for row in watch.rows]
    measured = [(f"{name} is measured", "") for name in items]
    assert found == [
        measured[0],
        measured[1],
        ("hangs", "stopped: its time was over"),
        measured[2],
        ("raises", "failed: MemoryError: no memory"),
        measured[3],
        ("dies", "signal 9: noise on stdout"),
        measured[4],
    ]
    assert watch.failed
    written = (tmp_path / "accelerator.jsonl").read_text()
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line["name"] for line in lines if "name" in line] == [name for name, _ in found]
    assert [line["item"] for line in lines if "seconds" in line] == ["first", "last"]
    assert "last is measured" in capsys.readouterr().out


def test_time_of_all(tmp_path):
    """When the time of all is over, what runs is stopped, and the rest is named."""
    from bench_accelerator import Watch

    watch = Watch(tmp_path, {"hangs": 0.8, "last": 30.0}, time.monotonic() + 1.5)
    watch.run(lambda names, events: [sys.executable, "-c", SCRIPT, ",".join(names), str(events)])
    assert [row.note for row in watch.rows][1:] == [
        "stopped: its time was over",
        "not measured: the time was over",
    ]


def test_table():
    from bench_table import Row, table

    rows = [
        Row("a step", "bfloat16", "images/s", 12345.6, 6000.0, 4000.0, 0.123, 0.5, 20.0, 1.5),
        Row("maps", note="refused"),
    ]
    head, ruler, step, maps = table(rows).splitlines()
    assert len({len(line) for line in (head, ruler, step, maps)}) == 1
    cells = [cell.strip() for cell in step.split("|")][1:-1]
    assert cells[:5] == ["a step", "bfloat16", "images/s", "12,346", "6,000"]
    assert cells[5:] == ["4,000", "2.06", "12.3%", "50.0%", "20", "1.5", ""]
    assert maps.endswith("| refused |")


def test_unknown_item(tmp_path):
    found = launch("bench_accelerator.py", "--items=targets", f"--out={tmp_path}")
    assert found.returncode == 2
    assert re.fullmatch(r"error: unknown item 'targets': choose among machine, .*\n", found.stderr)
    assert not os.listdir(tmp_path)
