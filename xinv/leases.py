"""Leases: which process works on a result, on any host that shares the file system.

A lease is a marker file that its holder touches while it lives. Others take it over at once if the
holder is a dead process of this host, and elsewhere once it has not been touched for `SECONDS`, by
the observer's own clock. A holder that was suspended meanwhile has lost it: see `Leases.lost`.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import LeaseCompromise, SoftFileLease, Timeout

from xinv import processes
from xinv.types import InputError

SECONDS = 60.0
"""An untouched lease of another host ends after this time. All processes must agree on it."""
_HEARTBEATS = 4  # touches per lease time
_OBJECT_STORES = ("fuse.gcsfuse", "fuse.s3fs", "fuse.mount-s3", "fuse.goofys", "fuse.blobfuse")


class Busy(Exception):  # noqa: N818 (a state, not a mistake)
    """Another process holds the lease: come again later."""


class Leases:
    """The leases of one process.

    Args:
      lost: called with the path of a lease that another process has taken over while this one was
        suspended, in a thread of its own. A worker ends its process here.
      seconds: see `SECONDS`.
    """

    def __init__(
        self,
        lost: Callable[[Path], None] | None = None,
        seconds: float = SECONDS,
    ):
        self._lost = lost
        self._seconds = seconds
        # The age of a lease is known to the object that has observed it
        self._contested: dict[Path, SoftFileLease] = {}

    @contextlib.contextmanager
    def hold(self, path: Path) -> Iterator[None]:
        """Holds the lease with the marker `path`, whose folder exists.

        Raises:
          Busy: another process holds it.
        """
        lease = self._contested.pop(path, None) or self._lease(path)
        try:
            lease.acquire(timeout=0)
        except Timeout:
            self._contested[path] = lease
            raise Busy(f"another process works on {path.with_suffix('')}") from None
        try:
            yield
        finally:
            lease.release()

    def is_held(self, path: Path) -> bool:
        """Tells if a living process holds the lease; the marker of a dead one is removed."""
        if not path.exists():
            return False
        try:
            with self.hold(path):
                return False
        except Busy:
            return True

    def looks_held(self, path: Path) -> bool:
        """Tells if a lease is held, without waiting to see the holder of another host touch it."""
        if not self.is_held(path):
            return False
        try:
            # The clock of the file system is asked only if this host's makes the marker look old
            recent = time.time() - path.stat().st_mtime < self._seconds
            return recent or _age(path) < self._seconds
        except FileNotFoundError:
            return False

    def _lease(self, path: Path) -> SoftFileLease:
        return SoftFileLease(
            path,
            lease_duration=self._seconds,
            heartbeat_interval=self._seconds / _HEARTBEATS,
            on_compromise=self._report,
            thread_local=False,
        )

    def _report(self, compromise: LeaseCompromise) -> None:
        if self._lost is not None:
            self._lost(Path(compromise.lock_file))


@contextlib.contextmanager
def locked(folder: Path, leases: Leases | None = None) -> Iterator[None]:
    """Holds `folder` for this run; leaves no empty folder that was not there before.

    Raises:
      InputError: another run holds it, or the file system cannot be shared.
    """
    with contextlib.ExitStack() as stack:
        processes.led(lambda: stack.enter_context(_locked(folder, leases or Leases())))
        yield


@contextlib.contextmanager
def _locked(folder: Path, leases: Leases) -> Iterator[None]:
    require_exclusive(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(leases.hold(folder / ".lease"))
            except Busy:
                raise InputError(
                    f"another run is using {folder}, or was killed on another host less than a"
                    " minute ago: wait for it to end or choose another folder"
                ) from None
            yield
    finally:
        # Unless it holds something
        with contextlib.suppress(OSError):
            for empty in made:
                empty.rmdir()


def require_exclusive(folder: Path, mounts: str | None = None) -> None:
    """Checks that `folder` is on a file system on which one process can exclude others.

    Args:
      folder: need not exist.
      mounts: the text of /proc/self/mountinfo; None reads it.

    Raises:
      InputError: it is an object store, which neither creates a file exclusively nor renames a
        folder in one step.
    """
    if mounts is None:
        table = Path("/proc/self/mountinfo")
        mounts = table.read_text() if table.exists() else ""
    kinds = {}
    for line in mounts.splitlines():
        fields, _, described = line.partition(" - ")
        kinds[Path(fields.split()[4])] = described.split()[0]
    # The innermost mount counts
    absolute = Path(os.path.abspath(folder))
    for place in (absolute, *absolute.parents):
        if place not in kinds:
            continue
        if kinds[place] in _OBJECT_STORES:
            raise InputError(
                f"{folder} is on {kinds[place]}, where processes cannot exclude each other: choose "
                "a folder on a local disk, NFS, Lustre, GPFS or Filestore"
            )
        return


def _age(path: Path) -> float:
    """Seconds since a marker was touched, by the clock of the file system."""
    probe = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
