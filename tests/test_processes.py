"""Several processes of one run: equal to one process with as many devices, and what a lost one
leaves.
"""

import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import peers as computed
import pytest
from launched import Launched, launch
from ml_collections import ConfigDict

from xinv import processes
from xinv.types import InputError

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "launch")]
from configs import base, datasets  # noqa: E402

peers = importlib.import_module("engines.peers")
TWO_CORES = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="two processes need a core each"
)

pytestmark = pytest.mark.slow
ROUNDING = 1e-5  # sums over the devices of several processes are taken in another order


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each of two processes with two devices found, and one process with four."""
    folder, port = tmp_path_factory.mktemp("peers"), free_port()
    started = []
    for number, count in ((0, 2), (1, 2), (0, 1)):
        command = [sys.executable, "-W", "error", computed.__file__]
        command += map(str, (folder, number, count, port))
        environment = computed.environment(4 // count, 8)
        started.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    for process in started:
        _, printed = process.communicate(timeout=240)
        assert process.returncode == 0, printed
    return [dict(np.load(folder / f"{name}.npz")) for name in ("0 of 2", "1 of 2", "0 of 1")]


def test_processes_equal_devices(results):
    """A training with augmentation, dropout, batch statistics and noise of each device's own, and
    draws for each example.
    """
    first, second, alone = results
    assert first["devices"] == second["devices"] == alone["devices"] == 4
    assert [*first["places"], *second["places"]] == [0, 1, 2, 3]
    for name, wanted in alone.items():
        if name.startswith(("weights", "drawn", "above", "loss", "placed")):
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)
            np.testing.assert_allclose(first[name], wanted, atol=ROUNDING, err_msg=name)
    assert alone["placed"] == alone["expected sum"]


def test_rows_shared(results):
    """Each process reads its half of every batch."""
    first, second, alone = results
    assert alone["rows trained on"] == 2 * 5 * 8
    for name in ("rows trained on", "rows mapped"):
        assert first[name] == second[name] == alone[name] / 2


def test_first_process_tells(results):
    """Arrays arrive to the bit, numbers in their order; errors end all, or are shared."""
    first, second, alone = results
    for name in alone:
        if name.startswith(("told", "negative", "numbers", "there", "filled", "saved", "state")):
            np.testing.assert_array_equal(first[name], alone[name], err_msg=name)
            np.testing.assert_array_equal(second[name], alone[name], err_msg=name)
    assert second["negative zero"]
    assert first["error Busy"] == second["error Busy"] == "Busy: of the first"
    assert first["error OSError"] == "OSError: of the first"
    assert second["error OSError"] == "InputError: of the first"
    assert "need the same config and the same data" in str(second["another config"])
    assert "another config" not in first


def test_shares_divide(monkeypatch):
    """GPUs are divided in order, or else cores; what cannot be divided is refused."""
    monkeypatch.setattr(peers.devices, "tpus", list)
    monkeypatch.setattr(
        peers.devices, "gpus", lambda: [{"CUDA_VISIBLE_DEVICES": name} for name in "0123"]
    )
    named = [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in peers.shares(2)]
    assert named == ["0,1", "2,3"]
    with pytest.raises(InputError, match="--processes=3 do not divide the 4 GPUs"):
        peers.shares(3)
    monkeypatch.setattr(peers.devices, "gpus", list)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2, 5, 7, 9})
    assert [slot.cores for slot in peers.shares(2)] == [(1, 2), (5, 7)]
    with pytest.raises(InputError, match="--processes=6 are more than the 5 cores"):
        peers.shares(6)
    monkeypatch.setattr(peers.devices, "tpus", lambda: [{}])
    with pytest.raises(InputError, match="on a TPU host one process"):
        peers.shares(2)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--processes=0"], "flag --processes=0: 0 is not a positive integer"),
        (["--processes=2", "--multiprocess"], "leave out --processes"),
        (["--processes=2", "--process_id=1"], "--coordinator_address=HOST:PORT and --process_id=K"),
        (
            ["--processes=2", "--process_id=2", "--coordinator_address=localhost:1"],
            "--process_id=2 is none of --processes=2",
        ),
        (
            ["--processes=2", "--process_id=1", "--coordinator_address=here"],
            "--coordinator_address=here is no HOST:PORT",
        ),
        (["--multiprocess"], "--multiprocess is for processes that SLURM (in srun)"),
        (["--processes=999"], "--processes=999 are more than the"),
    ],
)
def test_mistake_named(tmp_path, arguments, sentence):
    """One sentence and status 2, before anything is written."""
    flags = "--config=configs/digits.py", f"--workdir={tmp_path}/w"
    result = launch("run.py", *flags, *arguments)
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert sentence in line
    assert not (tmp_path / "w").exists()


def test_coordinator_missing(monkeypatch):
    """A process whose coordinator does not answer ends with a sentence."""
    monkeypatch.setattr(processes, "PATIENCE_SECONDS", 0.0)
    where = f"localhost:{free_port()}"
    with pytest.raises(InputError, match=f"process 0 does not answer at {where}"):
        processes.initialise(processes.Place(where, 2, 1))
    assert processes.count() == 1


GROUP = """
import os, signal, sys, time
mine = int(next(a for a in sys.argv if a.startswith("--process_id=")).partition("=")[2])
do, who, value = sys.argv[1].split(",")
print("process", mine, file=sys.stderr, flush=True)
if who in (str(mine), "all"):
    if do == "kill":
        os.kill(os.getpid(), int(value))
    sys.exit(int(value))
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("what", "status", "sentence"),
    [
        ("exit,all,0", 0, ""),
        ("kill,1,9", 75, "lost process 1 of 2 to SIGKILL: the same command continues"),
        ("kill,0,11", 75, "lost process 0 of 2 to SIGSEGV"),
        ("exit,all,2", 2, "process 0"),
        ("exit,1,3", 3, "process 1"),
    ],
)
@TWO_CORES
def test_group_judged(tmp_path, capfd, monkeypatch, what, status, sentence):
    """A killed process is named; one that fails alone is quoted, and the rest is ended."""
    monkeypatch.setattr(peers, "GRACE", 1.0)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    (tmp_path / "group.py").write_text(GROUP)
    started = time.monotonic()
    assert peers.run(2, [sys.executable, str(tmp_path / "group.py"), what]) == status
    assert time.monotonic() - started < 30
    printed = capfd.readouterr().err.splitlines()
    assert printed[-1].startswith(sentence) if sentence else True
    assert ("process 1" in printed) == (what == "exit,1,3")


def unit():
    """Digits at 16x16: crop, flip, dropout and BatchNorm in the target, and a defence that draws.

    Adam would make weights of the rounding errors in the biases that BatchNorm cancels.
    """
    train = dict(epochs=2, batch_size=32, learning_rate=0.05, optimizer="sgd")
    digits, network = dict(name="digits"), dict(name="cnn", dtype="float32", width=0.03125)
    network |= dict(channels=(128, 256), hidden=512, norm="batch", dropout=(0.25, 0.5))
    config = base.inversion(
        unit="processes",
        data=datasets.section(digits, "digit", datasets.DEFENDED, share=0.3, resize=(16, 16)),
        target_label="digit",
        attack_label="digit",
        model=network,
        train=base.recipe(**train, augment=("crop", "flip"), crop_padding=2),
        attack_width=0.015625,
        attack_train=base.recipe(**train),
        explanations=ConfigDict({"gradient": dict(name="gradient", normalise="absolute_minmax")}),
        defences=ConfigDict({"rnd": dict(name="gaussian", mse=0.01)}),
        arms=ConfigDict({"rnd": base.defended("prediction", "gradient", by=("rnd",))}),
    )
    config.seeds, config.report.examples = 1, 1
    config.metrics.image, config.metrics.label = ConfigDict(dict(mse={})), ConfigDict()
    config.attack.encoder = "flatten"
    return config.to_dict()


class Run:
    """launch/run.py with two processes of two devices."""

    def __init__(self, config, workdir, programs, *arguments):
        # Both may be killed while they write a program
        shutil.copytree(jax.config.jax_compilation_cache_dir, programs, dirs_exist_ok=True)
        settings = {
            "JAX_COMPILATION_CACHE_DIR": str(programs),
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        }
        command = [sys.executable, str(ROOT / "launch/run.py"), f"--config={config}"]
        command += [f"--workdir={workdir}", "--processes=2", *arguments]
        self.stages = workdir / "stages"
        self.process = subprocess.Popen(
            command,
            env=computed.environment(2, 2) | settings,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def kill(self, number, pattern):
        """Kills one of the two once a stage is there; returns the parent's status and last line."""
        while not any(self.stages.glob(pattern)):
            assert self.process.poll() is None, self.process.stderr.read()
            time.sleep(0.01)
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        (child,) = (
            int(child)
            for child in children.split()
            if f"--process_id={number}" in Path(f"/proc/{child}/cmdline").read_text().split("\0")
        )
        os.kill(child, signal.SIGKILL)
        return self.end()

    def end(self):
        _, printed = self.process.communicate(timeout=300)
        return self.process.returncode, printed.strip().splitlines()[-1]


@TWO_CORES
def test_lost_process_continued(tmp_path):
    """Either process is killed in a training; the same command goes on to the rows of one process
    with four devices.
    """
    config, workdir = tmp_path / "unit.py", tmp_path / "two"
    config.write_text(
        "from ml_collections import ConfigDict\n"
        f"def get_config(arg=''):\n    return ConfigDict({unit()!r})\n"
    )
    alone = Launched("run.py", f"--config={config}", f"--workdir={tmp_path}/one", devices=4)
    for number, stage in ((1, "target"), (0, "attack")):
        run = Run(config, workdir, tmp_path / "programs", "--checkpoint_seconds=0")
        status, line = run.kill(number, f"{stage}-*.partial/checkpoints/*")
        assert status == 75
        assert line.startswith(f"lost process {number} of 2 to SIGKILL")
        assert not (workdir / "rows.jsonl").exists()
    assert Run(config, workdir, tmp_path / "programs").end()[0] == 0
    assert alone.wait().returncode == 0
    found, wanted = (
        [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
        for folder in (workdir, tmp_path / "one")
    )
    assert len(found) == len(wanted) > 5
    for mine, one in zip(found, wanted, strict=True):
        assert mine["metric"] == one["metric"]
        np.testing.assert_allclose(mine["value"], one["value"], atol=ROUNDING, rtol=ROUNDING)
