"""Sweeps end to end: workers on one store, killed and started again, end with the rows of one
worker.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_audit import tiny

from xinv import sweep

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
CORES = [str(core) for core in sorted(os.sched_getaffinity(0))[:2]]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """A config of two tiny audits that differ in the target's width, and the environment of its
    launchers.
    """
    folder = tmp_path_factory.mktemp("sweep")
    few = {f"{part}.train.epochs": 1 for part in ("target", "evaluation", "attack")}
    config = tiny(**few)
    (folder / "experiment.py").write_text(
        "from ml_collections import ConfigDict\ndef get_config(arg=''):\n    return"
        f" ConfigDict({config!r})\ndef sweep(arg, config):\n    return [{{'unit':"
        " f'width-{width}', 'target.model.width': width} for width in (0.03125, 0.0625)]\n"
    )
    # Compiled programs are shared between the processes, so that the test spends its time on what
    # it tests
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return folder, os.environ | cache


def command(experiment, workdir, *arguments, cores=CORES):
    return [
        "taskset",
        "--cpu-list",
        ",".join(cores),
        sys.executable,
        str(ROOT / "launch" / "sweep.py"),
        f"--config={experiment[0]}/experiment.py",
        f"--workdir={workdir}",
        *arguments,
    ]


def start(experiment, *arguments):
    """A sweep on its two cores, so that each of two workers has one."""
    with open(experiment[0] / "out.txt", "ab") as out:
        return subprocess.Popen(
            command(experiment, experiment[0] / "crew", *arguments),
            env=experiment[1],
            stdout=out,
            stderr=out,
        )


def children(pid):
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def wait_for(what, process=None):
    deadline = time.monotonic() + 180
    while not (found := what()):
        assert process is None or process.poll() is None, "the sweep ended too soon"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def lines(workdir):
    """What the logs of workers say of finished stages."""
    text = "".join(path.read_text() for path in (workdir / "workers").glob("*.log"))
    return re.findall(r"^(\w+ .*, seed \d) +[\d.]+ s$", text, flags=re.MULTILINE)


def test_killed_workers_same_rows(experiment):
    """A worker is killed while another trains, then the sweep; again, the rows are those of one
    worker on one core.
    """
    folder, variables = experiment
    crew, alone = folder / "crew", folder / "alone"
    options = ("--launcher=local", "--jobs=2", "--checkpoint_seconds=0")

    # One worker
    subprocess.run(
        command(experiment, alone, cores=CORES[:1]), env=variables, check=True, capture_output=True
    )

    # Two, of which one is killed while it trains, and then all
    process = start(experiment, *options)
    wait_for(lambda: [*crew.glob("stages/attack-*.partial/checkpoints/[0-9]*")], process)
    workers = children(process.pid)
    os.kill(workers[0], signal.SIGKILL)
    workers += wait_for(lambda: set(children(process.pid)) - set(workers), process)
    process.kill()
    process.wait()
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    assert start(experiment, *options).wait(300) == 0, (folder / "out.txt").read_text()

    # The same rows, every stage once, nothing left
    for unit in ("0000", "0001"):
        rows = [workdir / "units" / unit / "rows.jsonl" for workdir in (alone, crew)]
        assert rows[0].read_bytes() == rows[1].read_bytes()
    stages = [
        sorted(path.name for path in (workdir / "stages").iterdir()) for workdir in (alone, crew)
    ]
    assert stages[0] == stages[1]
    assert len(lines(crew)) == len(stages[0])
    temporary = ("*.lease", "*.partial", "tries", "pieces")
    assert not [path for pattern in temporary for path in crew.rglob(pattern)]


def test_stopped_worker_resumes(experiment):
    """SIGTERM lets a worker save its training and leave with 75, and no try of it is counted."""
    folder, variables = experiment
    workdir = folder / "stopped"
    planned = subprocess.run(
        command(experiment, workdir, "--dry_run"), env=variables, capture_output=True, text=True
    )
    assert planned.stdout.startswith("2 experiments, 2 pieces")
    assert "cost: unknown until a piece is done" in planned.stdout
    assert not workdir.exists()
    with subprocess.Popen(
        command(experiment, workdir), env=variables, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(lambda: [*workdir.glob("units/*/tries/*")], process)
        wait_for(lambda: [*workdir.glob("stages/evaluation-*.partial")], process)
        process.terminate()
        said = process.stderr.read()
    assert process.returncode == 75, said
    assert "stopped" in said
    assert not [*workdir.glob("units/*/tries/*")]
    assert not [*workdir.rglob("*.lease")]
    board = sweep.Board(sweep.read(workdir))
    assert sweep.summary(board) == "2 pieces: 0 done, 0 running, 2 waiting, 0 failed"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--launcher=ray"], "unknown launcher 'ray': choose one of local, slurm, k8s"),
        (["--jobs=0"], "flag --jobs=0: "),
    ],
)
def test_mistakes_in_one_sentence(experiment, tmp_path, arguments, sentence):
    """A wrong flag ends with status 2 and one sentence."""
    result = subprocess.run(
        command(experiment, tmp_path / "w", *arguments),
        env=experiment[1],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert sentence in result.stderr
    assert not [*tmp_path.iterdir()]
