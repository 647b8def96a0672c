"""Workers of this machine: started again when they die, given up when that does not help, and
stopped together.
"""

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from xinv import sweep
from xinv.types import InputError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "launch"))
local = importlib.import_module("engines.local")
devices = importlib.import_module("engines.devices")
helpers = importlib.import_module("engines.helpers")

SHELL = """
import os, signal, sys, time
number = next(argument for argument in sys.argv if argument.startswith("--number="))[-1]
print("began", number, flush=True)
if number == "0":
    print("error: there is no image", flush=True)
    sys.exit(2)
if number == "1":
    print("no such library", flush=True)
    sys.exit(1)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
time.sleep(0 if "--ends" in sys.argv else 60)
"""

WORKER = f"""
import json, os, signal, sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, {str(ROOT)!r})
from xinv import store, sweep
from xinv.audit import results
from xinv.audit.run import Found
from xinv.sweep import work

def compute(service, seed):
    if service.config["unit"] == "kills":
        die = lambda: os.kill(os.getpid(), signal.SIGKILL)
        service.stages.computed("own", f"the end, seed {{seed}}", {{}}, die)
    return Found([{{"value": seed}}], [])

def write(service, folder, found, seconds):
    results.begin(folder, service.config)
    lines = "".join(json.dumps(found[seed].rows) + "\\n" for seed in found)
    store.write_text(folder / results.ROWS, lines)

work.opened = lambda config, stages, load: SimpleNamespace(config=config, stages=stages)
work.validate, work.computed, work.write = lambda service: None, compute, write
found = sweep.read(Path(sys.argv[1].partition("=")[2]))
with store.opened(found.stages) as stages:
    outcome = sweep.Worker(found, stages, tries=2).run()
sys.exit(1 if outcome.failed else 0)
"""


def create(workdir, *names):
    sweep.write(workdir, sweep.describe([{"unit": name, "seed": 0, "seeds": 1} for name in names]))
    return sweep.read(workdir)


@pytest.fixture
def crew(tmp_path, monkeypatch):
    """Makes a crew whose workers run a program of the test."""

    def make(program, places, names=("a",), arguments=()):
        (tmp_path / "worker.py").write_text(program)
        monkeypatch.setattr(local, "_WORKER", tmp_path / "worker.py")
        found = create(tmp_path / "w", *names)
        return local.Crew(found, [devices.Slot({})] * places, list(arguments)), found

    return make


@pytest.mark.slow
def test_killing_piece_given_up(crew):
    """A piece that kills its worker is tried as often as allowed, then named; others are done."""
    workers, found = crew(WORKER, 1, ("kills", "a"))
    board = sweep.Board(found, 2)
    assert workers.run(board, lambda: None) == {0: 1}
    assert board.failures() == (
        "kills, seed 0: its worker was killed in the end, seed 0 (2 tries)",
    )
    assert board.is_finished(found.units[1])


def test_hopeless_worker_named(crew):
    """Bad input is told once; a worker that dies before it takes a piece is started five times."""
    workers, found = crew(SHELL, 3, arguments=["--ends"])
    statuses = workers.run(sweep.Board(found), lambda: None)
    assert statuses == {0: 2, 1: 1, 2: 0}
    assert workers.errors() == ["there is no image"]
    assert [path.read_text().count("began") for path in map(found.log, range(3))] == [1, 5, 1]
    (sentence,) = workers.deaths()
    assert sentence.startswith(
        "worker 1 ended 5 times with status 1 before it took a piece: no such library (see "
    )


def test_stop_ends_all(crew):
    """Workers that are told to leave are waited for."""
    workers, found = crew(SHELL.replace('"0"', '"5"').replace('"1"', '"6"'), 2)

    def interrupt():
        while not all(found.log(n).exists() and found.log(n).read_text() for n in range(2)):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            workers.run(sweep.Board(found), lambda: None)
    finally:
        signal.signal(signal.SIGINT, before)
    started = time.monotonic()
    workers.stop()
    assert time.monotonic() - started < 30
    assert {process.returncode for process in workers._running.values()} == {75}


def test_slots_share_devices(monkeypatch):
    """Each worker sees one accelerator, or its share of the cores; more workers than accelerators
    are refused.
    """
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in devices.slots(None)] == ["2", "5"]
    with pytest.raises(InputError, match="--jobs=3 is more than the 2 accelerators"):
        devices.slots(3)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert [slot.cores for slot in devices.slots(None)] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert [slot.cores for slot in devices.slots(3)] == [(0, 1), (2, 3), (4, 5)]
    assert devices.slots(16)[9].cores == (1,)


def test_gpus_listed_without_jax(monkeypatch):
    """The cards are counted by nvidia-smi, since a client of JAX would hold them."""
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices.shutil, "which", lambda name: name)
    listed = "GPU 0: NVIDIA H100 (UUID: GPU-1)\nGPU 1: NVIDIA H100 (UUID: GPU-2)\n"
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, listed, "")
    )
    assert [slot.environment for slot in devices.slots(None)] == [
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "1"},
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_helpers(tmp_path, capsys, fails):
    """A helper has its number and its cores, ends with the block, and is named if it failed."""
    script = tmp_path / "helper.py"
    script.write_text(
        "import os, pathlib, sys, time\n"
        "out = pathlib.Path(sys.argv[1])\n"
        "(out / 'new').write_text(f'{sys.argv[2]} {sorted(os.sched_getaffinity(0))}')\n"
        "(out / 'new').rename(out / 'begun')\n"
        f"sys.exit(3) if {fails} else time.sleep(60)\n"
    )
    core = max(os.sched_getaffinity(0))
    place, logs = devices.Slot({}, (core,)), tmp_path / "workers"
    cores, printed = os.sched_getaffinity(0), ""
    with helpers.beside([sys.executable, str(script), str(tmp_path)], [place], logs):
        while not (tmp_path / "begun").exists() or (fails and not printed):
            time.sleep(0.05)
            printed += capsys.readouterr().err
    assert (tmp_path / "begun").read_text() == f"--helper=1 [{core}]"
    assert os.sched_getaffinity(0) == cores
    told = f"helper 1 ended with status 3: see {logs / '1.log'}\n"
    assert printed + capsys.readouterr().err == (told if fails else "")
