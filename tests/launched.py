"""Launch programs in processes of their own, forked from one that has imported xinv: importing
takes seconds.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

import jax

ROOT = Path(__file__).resolve().parent.parent
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["xinv.audit", "xinv.report", "ml_collections.config_flags"])


class Launched:
    """A program that runs as `python PROGRAM ARGUMENTS` does; its path is absolute, or in launch/.

    `cwd` is its working directory, `programs` the folder of its compiled programs, if not that of
    all tests, and `devices` the number of its CPU devices. It optimises programs as this process
    does.
    """

    def __init__(
        self,
        program: str,
        *arguments: object,
        cwd: str | Path = ROOT,
        programs: str | Path | None = None,
        devices: int = 1,
    ):
        self._command = [str(ROOT / "launch" / program), *map(str, arguments)]
        self._folder = tempfile.TemporaryDirectory()
        self._streams = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        settings = {
            "jax_disable_most_optimizations": jax.config.read("jax_disable_most_optimizations"),
            "jax_num_cpu_devices": devices,
        }
        if programs:
            settings["jax_compilation_cache_dir"] = str(programs)
        self._process = _SERVER.Process(
            target=_run, args=(self._command, str(cwd), self._streams, settings)
        )
        self._process.start()

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        """Sends SIGKILL."""
        self._process.kill()

    def wait(self, timeout: float = 300) -> subprocess.CompletedProcess:
        """Its status and output, once it has ended; it is killed after `timeout` seconds."""
        self._process.join(timeout)
        if self.poll() is None:
            self.kill()
            self._process.join()
        printed = [path.read_text() for path in self._streams]
        self._folder.cleanup()
        return subprocess.CompletedProcess(self._command, self.poll(), *printed)


def launch(program: str, *arguments: object, **options: str | Path) -> subprocess.CompletedProcess:
    """Runs a program to its end; see `Launched`."""
    return Launched(program, *arguments, **options).wait()


def _run(command: list[str], cwd: str, streams: list[Path], settings: dict[str, object]) -> None:
    os.chdir(cwd)
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), number)
    for name, value in settings.items():
        jax.config.update(name, value)
    sys.argv = command
    sys.path[0] = str(Path(command[0]).parent)
    runpy.run_path(command[0], run_name="__main__")
