"""Leases between processes: of one host, of two, and of one that was suspended."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from xinv import store
from xinv.leases import Busy, Leases, locked, require_exclusive
from xinv.types import InputError

SECONDS = 3.0
ROOT = Path(__file__).resolve().parent.parent

HOLD = """
import sys, time
from pathlib import Path
from xinv.leases import Leases
with Leases(seconds={seconds}).hold(Path({path!r})):
    print("held", flush=True)
    time.sleep(600)
"""
BUILD = """
import os, sys, time
from pathlib import Path
from xinv import store
from xinv.leases import Leases

def build(folder):
    (folder / "x.npy").write_bytes(b"half")
    print("half", flush=True)
    while not Path({go!r}).exists():
        time.sleep(0.01)
    store.write_text(folder / "late", "late")

stages = store.Store(Path({root!r}), Leases(lambda path: os._exit(75), {seconds}))
stage, _ = stages.find("square", {{"rate": 1}})
try:
    stages.compute(stage, {{"rate": 1}}, build)
except (store.Lost, FileNotFoundError):
    sys.exit(75)
"""


def start(code, *before):
    """A process that has printed its first line."""
    process = subprocess.Popen(
        [*before, sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with process.stdout:
        assert process.stdout.readline()
    return process


def seconds_until_taken(leases, path):
    started = time.monotonic()
    while True:
        try:
            with leases.hold(path):
                return time.monotonic() - started
        except Busy:
            time.sleep(0.05)
            assert time.monotonic() - started < 30


def test_dead_holder_replaced(tmp_path):
    """A holder that was killed on this host is followed at once; a living one is not."""
    path = tmp_path / "a.lease"
    process = start(HOLD.format(seconds=SECONDS, path=str(path)))
    leases = Leases(seconds=SECONDS)
    assert leases.is_held(path)
    with pytest.raises(Busy, match="another process works on"), leases.hold(path):
        pass
    process.kill()
    process.wait()
    assert seconds_until_taken(leases, path) < 1
    assert not path.exists()


KILLED = """
import os, signal
from pathlib import Path
from filelock import SoftFileLease
from xinv.leases import Leases

def killed(self, descriptor):
    print("created", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

SoftFileLease._write_lock_info = killed
with Leases().hold(Path({path!r})):
    pass
"""


def test_unwritten_marker_replaced(tmp_path):
    """A holder that is killed between creating its marker and writing its record keeps nothing.

    Neither a stage, for which one asks again and again, nor a folder, for which a run waits. Before
    half of a lease's time it may be a holder whose record other hosts do not see yet.
    """
    stage, folder = tmp_path / "stage.lease", tmp_path / "run"
    folder.mkdir()
    for marker in (folder / ".lease", stage):
        start(KILLED.format(path=str(marker))).wait()
        assert not marker.stat().st_size
    leases = Leases(seconds=SECONDS)
    with pytest.raises(Busy), leases.hold(stage):
        pass
    with locked(folder, Leases(seconds=SECONDS)):
        assert (folder / ".lease").stat().st_size > 1
    assert seconds_until_taken(leases, stage) < 2 * SECONDS
    assert not (folder / ".lease").exists()


def test_blank_line_leaves_holder(tmp_path):
    """A blank line behind its record takes nothing from a holder."""
    path = tmp_path / "stage.lease"
    with Leases().hold(path):
        with path.open("ab") as marker:
            marker.write(b"\n")
        with pytest.raises(Busy), Leases().hold(path):
            pass


def test_other_host_replaced(tmp_path):
    """A holder that was killed on another host is followed when its lease ends."""
    separate = ["unshare", "--uts", "sh", "-c", 'hostname elsewhere && exec "$@"', "sh"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*separate, "true"], capture_output=True).returncode
    ):
        pytest.skip("another host name needs CAP_SYS_ADMIN")
    path = tmp_path / "a.lease"
    process = start(HOLD.format(seconds=SECONDS, path=str(path)), *separate)
    process.kill()
    process.wait()
    leases = Leases(seconds=SECONDS)
    assert leases.looks_held(path)
    os.utime(path, (0, 0))
    assert not leases.looks_held(path)
    assert SECONDS - 1 < seconds_until_taken(leases, path) < SECONDS + 3


def test_suspended_holder_loses(tmp_path):
    """Who was suspended for longer than a lease leaves with 75, and the stage is the other's."""
    root, go = tmp_path / "stages", tmp_path / "go"
    process = start(BUILD.format(seconds=SECONDS, root=str(root), go=str(go)))
    process.send_signal(signal.SIGSTOP)
    stages = store.Store(root, Leases(seconds=SECONDS))
    stage, _ = stages.find("square", {"rate": 1})
    for _ in range(600):
        try:
            stages.compute(
                stage, {"rate": 1}, lambda folder: store.save_array(folder / "x.npy", np.ones(3))
            )
            break
        except Busy:
            time.sleep(0.05)
    go.touch()
    process.send_signal(signal.SIGCONT)
    assert process.wait(30) == 75
    assert stage.array("x").tolist() == [1, 1, 1]
    assert sorted(path.name for path in stage.path.iterdir()) == ["spec.json", "x.npy"]
    assert list(root.iterdir()) == [stage.path]


def test_threads_build_once(tmp_path):
    """Two threads at the same 200 stages build each of them once."""
    built = []

    def work(order):
        stages = store.Store(tmp_path, Leases())
        for number in order:
            stage, done = stages.find("square", {"number": number})

            def build(folder, number=number):
                built.append(number)
                (folder / "x").touch()

            while not done:
                try:
                    stages.compute(stage, {"number": number}, build)
                except Busy:
                    time.sleep(0.001)
                done = stage.path.is_dir()

    threads = [threading.Thread(target=work, args=(range(200)[::step],)) for step in (1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(built) == list(range(200))
    assert len(os.listdir(tmp_path)) == 200


MOUNTS = """22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:44 / /bucket rw,nosuid - fuse.gcsfuse bucket rw
31 30 0:45 / /bucket/nfs rw - nfs4 server:/x rw"""


def test_object_store_refused():
    """The innermost mount of a folder decides, whether the folder exists or not."""
    for folder in ("/home/x", "/bucket/nfs/runs", "/bucketful"):
        require_exclusive(Path(folder), MOUNTS)
    with pytest.raises(
        InputError, match=r"/bucket/runs is on fuse\.gcsfuse, where processes cannot"
    ):
        require_exclusive(Path("/bucket/runs"), MOUNTS)
