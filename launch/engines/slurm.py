"""Runs workers on SLURM by submitit: an array of jobs, requeued when preempted or killed."""

import ast
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xinv.types import InputError

_LAUNCH = Path(__file__).resolve().parent.parent
_WORKER = _LAUNCH / "worker.py"
_LEFT = (0, 1, 2)
"""Exit statuses without another start: nothing left, an experiment failed, bad input."""
_RESTARTS = 2  # of a job, after which a crash is its end
_SIGNAL_SECONDS = 120  # before the end of a job's time: more than the longest compilation
_MINUTES = 240


class Job:
    """A job of the array: starts launch/worker.py and waits for it.

    Args:
      command: the worker's.
      log: receives its output.
    """

    def __init__(self, command: Sequence[str], log: str):
        self._command = list(command)
        self._log = log
        self._process: subprocess.Popen | None = None

    def __call__(self) -> int:
        """Returns the worker's exit status, or leaves with it if the job must start again."""
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        # Not wait(), which checkpoint() would interrupt and wait for
        while self._process.poll() is None:
            time.sleep(0.2)
        status = self._process.returncode
        if status not in _LEFT:
            sys.exit(abs(status))
        return status

    def checkpoint(self) -> Any:
        """Lets the worker save its training when SLURM takes the node back.

        Returns:
          The submission of the same job, which continues it.
        """
        from submitit.helpers import DelayedSubmission

        # Wait for the save: submitit ends the job after this call
        if self._process is not None:
            self._process.terminate()
            while self._process.poll() is None:
                time.sleep(0.2)
        return DelayedSubmission(Job(self._command, self._log))


def parameters(jobs: int, options: Sequence[str]) -> dict[str, Any]:
    """Returns submitit's parameters for an array of `jobs` workers.

    Args:
      jobs: the number of workers.
      options: "name=value", parameters of submitit's SlurmExecutor; they take precedence.

    Raises:
      InputError: an option has no value.
    """
    # Values are Python literals, or else strings.
    given = {}
    for option in options:
        name, found, value = option.partition("=")
        if not found:
            raise InputError(
                f"--slurm={option} has no value: give name=value, for example"
                " partition=gpu,time=240"
            )
        given[name] = _literal(value)

    # SLURM requeues a preempted job, but not one that crashes or is killed.
    again = f'[ $code -ne 0 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {_RESTARTS} ]'
    teardown = f'code=$?; if {again}; then scontrol requeue "$SLURM_JOB_ID"; fi; exit $code'
    found = {
        "job_name": "xinv",
        "time": _MINUTES,
        "array_parallelism": jobs,
        "signal_delay_s": _SIGNAL_SECONDS,
        "setup": [f"export PYTHONPATH={shlex.quote(str(_LAUNCH))}:${{PYTHONPATH:-}}"],
        "teardown": [teardown],
    } | given
    # From SLURM 22.05 on, srun does not inherit it
    if "cpus_per_task" in found:
        found["srun_args"] = [f"--cpus-per-task={found['cpus_per_task']}"]
    return found


def submit(
    workdir: Path,
    logs: Sequence[Path],
    arguments: Sequence[str],
    options: Sequence[str],
) -> list[str]:
    """Submits one worker per log to SLURM.

    Args:
      workdir: of the sweep.
      logs: receive the output of the workers.
      arguments: flags of launch/worker.py.
      options: see `parameters`.

    Returns:
      The ids of the jobs.

    Raises:
      InputError: there is no SLURM, or it refuses the jobs.
    """
    try:
        import submitit
    except ImportError:
        raise InputError(
            "--launcher=slurm needs submitit: install the extra, pip install -e .[slurm]"
        ) from None
    # A folder of its own: half-written files of a killed job would end every later one.
    folder = workdir / "slurm" / uuid.uuid4().hex[:8]
    chosen = parameters(len(logs), options)
    # Make paths absolute: a job may start in another folder
    jobs = []
    for number, log in enumerate(logs):
        worker = [sys.executable, str(_WORKER), f"--workdir={workdir.absolute()}"]
        jobs.append(Job([*worker, f"--number={number}", *arguments], str(log.absolute())))
    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=1000)
        executor.update_parameters(**chosen)
        logs[0].parent.mkdir(parents=True, exist_ok=True)
        # One array: its jobs are requeued one by one, and cancelled together.
        with executor.batch():
            submitted = [executor.submit(job) for job in jobs]
        return [job.job_id for job in submitted]
    except (RuntimeError, ValueError, submitit.core.utils.FailedJobError) as error:
        raise InputError(
            f"SLURM does not take the workers: {' '.join(str(error).split())}"
        ) from None


def _literal(value: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return value
