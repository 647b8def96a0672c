"""Workers on a real SLURM of one node, brought up on loopback: killed, preempted, and with bad
input.
"""

import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xinv.types import InputError

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT.parent / "shared" / "slurm"
sys.path.insert(0, str(ROOT / "launch"))
slurm = importlib.import_module("engines.slurm")

WORKER = """
import os, signal, sys, time
from pathlib import Path

flags = dict(argument[2:].split("=") for argument in sys.argv[1:])
trace = Path(flags["workdir"]) / flags["number"]

def tell(word):
    with open(trace, "a") as file:
        file.write(f"{word} {os.getpid()}\\n")

def save(*_):
    tell("saved")
    sys.exit(75)

for number in (signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, save)
again = trace.exists()
tell("began")
if flags["number"] == "2":
    sys.exit(2)
if not again:
    time.sleep(120)
tell("ended")
"""


@pytest.fixture(scope="module")
def cluster():
    """The configuration of a SLURM that is up for this module."""
    pytest.importorskip("submitit")
    if not SCRIPTS.is_dir():
        pytest.skip(f"{SCRIPTS} has no scripts that bring up SLURM")
    folder = f"/tmp/xs{os.getpid()}"  # munge's socket needs a short path
    command = ["bash", str(SCRIPTS / "slurm_up.sh"), folder]
    result = subprocess.run(
        command, env=os.environ | {"APT": "0", "CPUS": "2"}, capture_output=True, text=True
    )
    if result.returncode == 77:
        pytest.skip(result.stderr.strip())
    assert result.returncode == 0, result.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", result.stdout.strip().partition("=")[2])
        yield
    subprocess.run(["bash", str(SCRIPTS / "slurm_down.sh"), folder], capture_output=True)


def trace(workdir, number):
    path = workdir / str(number)
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def words(workdir, number):
    return [word for word, _ in trace(workdir, number)]


def queue():
    """The ids of jobs that wait or run."""
    return subprocess.run(
        ["squeue", "-h", "-o", "%i"], capture_output=True, text=True, check=True
    ).stdout.split()


def wait_for(what):
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_killed_and_preempted_workers_return(cluster, tmp_path, monkeypatch):
    """SLURM starts both again, the second after it has saved; a worker with bad input is not
    started again.
    """
    (tmp_path / "worker.py").write_text(WORKER)
    monkeypatch.setattr(slurm, "_WORKER", tmp_path / "worker.py")
    logs = [tmp_path / "logs" / f"{number}.log" for number in range(3)]
    jobs = slurm.submit(tmp_path, logs, [], ["partition=work", "cpus_per_task=1"])
    assert [job.partition("_")[2] for job in jobs] == ["0", "1", "2"]
    wait_for(lambda: all(trace(tmp_path, number) for number in (0, 1)))
    os.kill(int(trace(tmp_path, 0)[0][1]), signal.SIGKILL)
    wait_for(lambda: jobs[2] not in queue())
    subprocess.run(
        ["sbatch", "-p", "urgent", "-c", "2", "--wrap", "sleep 1"], cwd=tmp_path, check=True
    )
    wait_for(lambda: all("ended" in words(tmp_path, number) for number in (0, 1)))
    wait_for(lambda: not queue())
    assert words(tmp_path, 0) == ["began", "began", "ended"]
    assert words(tmp_path, 1) == ["began", "saved", "began", "ended"]
    assert words(tmp_path, 2) == ["began"]


@pytest.mark.slow
def test_wrong_parameter_named(cluster, tmp_path):
    """A parameter that submitit does not know is told in one sentence."""
    with pytest.raises(InputError, match=r"Unavailable parameter\(s\): \['partitoin'\]"):
        slurm.submit(tmp_path, [tmp_path / "0.log"], [], ["partitoin=work"])


def test_no_slurm_named(tmp_path, monkeypatch):
    """Without SLURM's programs, or without submitit, one sentence says what is missing."""
    with pytest.raises(InputError, match="--slurm=partition has no value"):
        slurm.parameters(1, ["partition"])
    missing = "needs submitit: install the extra"
    if importlib.util.find_spec("submitit"):
        missing = "SLURM does not take the workers: Could not detect"
        monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=missing):
        slurm.submit(tmp_path, [tmp_path / "0.log"], [], [])
