"""Leases: exclusive work on a result, among all hosts of a shared file system.

A lease is a marker file, touched by its holder while it lives. Others take it over at once if the
holder is a dead process of this host. A lease of another host ends after `SECONDS` without a touch,
by the observer's own clock. A suspended holder loses it too: see `lost` of `Leases`.
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
_UNWRITTEN = 4.0  # seconds until a marker with a blank line is taken, twice filelock's patience
_POLL = 0.5  # seconds between two looks at a marker
_OBJECT_STORES = ("fuse.gcsfuse", "fuse.s3fs", "fuse.mount-s3", "fuse.goofys", "fuse.blobfuse")


class Busy(Exception):  # noqa: N818 (a state, not a mistake)
    """Another process holds the lease: come again later."""


class Leases:
    """The leases of one process.

    Args:
      lost: called with the path of a lease taken over by another process while this one was
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
        # Keep contested leases: the age of another host's lease counts from our first look at it
        self._contested: dict[Path, SoftFileLease] = {}

    @contextlib.contextmanager
    def hold(self, path: Path) -> Iterator[None]:
        """Holds the lease with the marker `path`, whose folder exists.

        Raises:
          Busy: another process holds it.
        """
        lease = self._contested.pop(path, None) or self._lease(path)
        # Wait for no living holder: a worker has other stages to try
        try:
            lease.acquire(timeout=_UNWRITTEN if self._is_abandoned(path) else 0)
        except Timeout:
            self._contested[path] = lease
            raise Busy(f"another process works on {path.with_suffix('')}") from None
        try:
            yield
        finally:
            lease.release()

    def wait_for_record(self, path: Path) -> None:
        """Waits while a marker has no record of its holder, for at most half of a lease's time."""
        while _is_empty(path) and not self._is_abandoned(path):
            time.sleep(_POLL)

    def _is_abandoned(self, path: Path) -> bool:
        """Tells if the holder was killed between creating its marker and writing its record.

        filelock keeps an empty marker for ever, since its first versions wrote no record. It takes
        over one with a blank line that nobody fills. A blank line behind a record changes nothing.
        """
        try:
            # Other hosts of NFS see a record at the latest when its holder touches the marker
            if _is_empty(path) and _age(path) > 2 * self._seconds / _HEARTBEATS:
                with open(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as marker:
                    marker.write(b"\n")
            return path.stat().st_size > 0 and not path.read_bytes().strip()
        except OSError:
            return False

    def is_held(self, path: Path) -> bool:
        """Tests if a living process holds the lease; removes the marker of a dead one."""
        if not path.exists():
            return False
        # Only an attempt to take the lease shows if its holder lives
        try:
            with self.hold(path):
                return False
        except Busy:
            return True

    def looks_held(self, path: Path) -> bool:
        """Tests if a lease is held, without waiting for another host's next touch."""
        if not self.is_held(path):
            return False
        try:
            # Ask the clock of the file system only if this host's clock makes the marker look old
            recent = time.time() - path.stat().st_mtime < self._seconds
            return recent or _age(path) < self._seconds
        except FileNotFoundError:
            return False

    def _lease(self, path: Path) -> SoftFileLease:
        return SoftFileLease(
            # Heartbeats run in a thread of their own, hence no thread-local lease
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
    """Holds `folder` for this run; removes folders it made if they stay empty.

    Raises:
      InputError: another run holds it, or the file system cannot be shared.
    """
    with contextlib.ExitStack() as stack:
        processes.led(lambda: stack.enter_context(_locked(folder, leases or Leases())))
        yield


@contextlib.contextmanager
def _locked(folder: Path, leases: Leases) -> Iterator[None]:
    require_exclusive(folder)
    # Remember the new folders, innermost first, for the way back
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.ExitStack() as stack:
            leases.wait_for_record(folder / ".lease")
            try:
                stack.enter_context(leases.hold(folder / ".lease"))
            except Busy:
                raise InputError(
                    f"another run is using {folder}, or was killed on another host less than a"
                    " minute ago: wait for it to end or choose another folder"
                ) from None
            yield
    finally:
        # A folder with content stays
        with contextlib.suppress(OSError):
            for empty in made:
                empty.rmdir()


def require_exclusive(folder: Path, mounts: str | None = None) -> None:
    """Checks that processes can exclude each other on the file system of `folder`.

    Args:
      folder: need not exist.
      mounts: the text of /proc/self/mountinfo; None reads it.

    Raises:
      InputError: it is an object store, without exclusive creation of files and atomic renaming of
        folders.
    """
    # Without /proc (macOS) every file system passes
    if mounts is None:
        table = Path("/proc/self/mountinfo")
        mounts = table.read_text() if table.exists() else ""
    # A line of mountinfo reads "... mount point ... - kind source options", see proc(5)
    kinds = {}
    for line in mounts.splitlines():
        fields, _, described = line.partition(" - ")
        kinds[Path(fields.split()[4])] = described.split()[0]
    # The innermost mount decides
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


def _is_empty(path: Path) -> bool:
    try:
        return not path.stat().st_size
    except FileNotFoundError:
        return False


def _age(path: Path) -> float:
    """Returns the seconds since a marker was touched, by the clock of the file system."""
    # A fresh file carries the server's time, whatever this host's clock says
    probe = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
