"""Checks and measures xinv on an accelerator, in minutes: what launch/accelerator.sh runs.

Example:
  bash launch/accelerator.sh
  bash launch/accelerator.sh --items=correctness,target --minutes=3

Every item has its own time limit, and is measured in a process that is killed at that; the others
go on in another one. Each row is printed and written to accelerator.jsonl when it is there, so that
nothing is lost where the whole is cut off. At the end all rows stand in one table. The exit status
is 1 if an item failed or a result is not within its tolerance. On a CPU everything is small.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import cli
from absl import flags
from bench_table import FAILED, Row, table

from xinv.types import InputError

ITEMS = flags.DEFINE_list("items", None, "What to measure, in this order. Default: all.")
MINUTES = flags.DEFINE_float(
    "minutes",
    8.0,
    "After which nothing more is measured; above 8, items have longer too.",
    0.0,
)
SMALL = flags.DEFINE_bool("small", False, "Few examples and narrow networks, as on a CPU.")
OUT = flags.DEFINE_string(
    "out",
    None,
    "Folder of accelerator.jsonl. Default: $OUT, or runs/accelerator.",
)
EVENTS = flags.DEFINE_string(
    "events",
    None,
    "Measure in this process, and write to that file; the program starts itself so.",
)
PARENT = flags.DEFINE_integer("parent", None, "Process with which this one ends; likewise.")

STARTING = 90.0
"""Seconds in which a process imports its libraries."""
_POLL = 0.1
_LEAST = 20.0  # seconds that must be left for an item to begin


class Size(NamedTuple):
    """Amounts to measure.

    Attributes:
      batch, maps, images, large: examples per step, of the membership network's step, and images
        explained at 32 and 224 pixels.
      width: factor on the papers' networks.
      rounds, steps: alternating measurements, and steps in each.
      seeds: that are trained together.
      methods: explainers.
    """

    batch: int = 64
    maps: int = 128
    images: int = 64
    large: int = 16
    width: float = 1.0
    rounds: int = 5
    steps: int = 128
    seeds: int = 4
    methods: tuple[str, ...] = (
        "saliency",
        "integrated_gradients",
        "smoothgrad",
        "deeplift",
        "lrp",
        "gradcam",
        "occlusion",
        "kernel_shap",
    )


LITTLE = Size(8, 8, 2, 1, 1 / 16, 1, 1, 2, ("saliency", "gradcam"))


class Item(NamedTuple):
    """One measurement: the seconds that it may take, and the function that yields its rows."""

    seconds: float
    rows: Callable[[Size], Iterator[Row]]


def machine(size: Size) -> Iterator[Row]:
    """Yields the rates of the machine, of which the other rows state fractions."""
    from bench_training import bench

    for dtype, rates in bench(size.batch, size.rounds, size.steps).rates.items():
        yield Row("matrix product", dtype, "TFLOP/s", rates.product / 1e12)
        yield Row("copy, read and written", dtype, "GB/s", rates.copy / 1e9)


def correctness(size: Size) -> Iterator[Row]:
    """Explanations and a training step against float64 on the CPU."""
    import bench_correct

    yield from bench_correct.run(size.batch, size.width)


def target(size: Size) -> Iterator[Row]:
    """Zhao's MNIST target."""
    yield from _trained(size, "target")


def expmi(size: Size) -> Iterator[Row]:
    """Zhao's inversion from predictions alone, and with explanations."""
    yield from _trained(size, "flatten_unet", "prediction only")


def _trained(size: Size, *names: str) -> Iterator[Row]:
    from bench_networks import networks
    from bench_training import measured

    how = _bench(size, size.batch)
    for dtype in how.rates:
        for name in names:
            yield from measured(name, networks(size.width)[name], dtype, how)


def gnime(size: Size) -> Iterator[Row]:
    """GNIME's generator against its inverter."""
    from bench_defences import UPDATES, WIDTHS, two_player

    how = _bench(size, size.batch)
    for network in WIDTHS:
        for dtype in how.rates:
            yield two_player(network, UPDATES[0], dtype, how, size.width)


def membership(size: Size) -> Iterator[Row]:
    """DeepLeak's membership networks."""
    from bench_membership import NETWORKS, training_step

    how = _bench(size, size.maps)
    for trunk in NETWORKS:
        for dtype in how.rates:
            yield training_step(trunk, size.width, dtype, how)


def seeds(size: Size) -> Iterator[Row]:
    """Seeds one after another and vmapped, restarts of an attack likewise."""
    from bench_membership import NETWORKS, restarting
    from bench_networks import examples, networks
    from bench_training import plain, several

    how = _bench(size, size.batch)
    data = examples(4 * size.batch)
    for name, network in networks(size.width).items():
        for dtype in how.rates:
            yield several(name, dtype, plain(network, dtype, data), size.seeds, how)
    # Restarts are seeds of an attack's network
    for trunk in NETWORKS:
        yield restarting(trunk, size.width, how)


def explainers_32(size: Size) -> Iterator[Row]:
    """Explainers beside captum's at 32 pixels, on Zhao's target."""
    yield from _explained(size, "cnn", size.images)


def explainers_224(size: Size) -> Iterator[Row]:
    """Explainers beside captum's at 224 pixels, on MobileNetV2."""
    yield from _explained(size, "mobilenet_v2_224", size.large)


def explainers_mobilenet(size: Size) -> Iterator[Row]:
    """Explainers beside captum's at 32 pixels, on MobileNetV2."""
    yield from _explained(size, "mobilenet_v2", size.images)


def _explained(size: Size, network: str, images: int) -> Iterator[Row]:
    import bench_explainers

    # Without captum, xinv is measured alone
    captum = None
    if _version("torch") and _version("captum"):
        import bench_captum as captum

        captum.settings()
    methods = list(size.methods)
    found = bench_explainers.measured(network, methods, images, min(size.rounds, 3), captum)
    # Put the figures of explainers alone into notes: all items share a table
    for row, roofline, mib in found:
        note = row.note
        if roofline:
            note = f"{roofline:.0%} of the rate of its forward passes"
        if mib:
            note += f"; captum needs {mib:.0f} MiB"
        yield row._replace(name=f"{row.name}, {network}", note=note)


KNOWN: dict[str, Item] = {
    "machine": Item(45, machine),
    "correctness": Item(75, correctness),
    "target": Item(75, target),
    "explainers_32": Item(100, explainers_32),
    "expmi": Item(100, expmi),
    "gnime": Item(110, gnime),
    "membership": Item(110, membership),
    "seeds": Item(75, seeds),
    "explainers_224": Item(120, explainers_224),
    "explainers_mobilenet": Item(100, explainers_mobilenet),
}


def _bench(size: Size, batch: int) -> Any:
    from bench_training import bench

    return bench(batch, size.rounds, size.steps)


def measure(names: Sequence[str], file: Path, small: bool) -> None:
    """Measures items in this process, and writes what happens to `file` as lines of JSON."""
    import jax

    device = jax.devices()[0]
    size = LITTLE if small or device.platform == "cpu" else Size()
    # Repeat these on every line, since each is stored by itself
    facts = dict(device=device.device_kind, small=size is LITTLE)
    facts["versions"] = {name: _version(name) for name in ("jax", "torch", "captum")}
    with file.open("w") as lines:

        def note(**event: Any) -> None:
            # Flush each line: this process may be killed at any moment
            print(json.dumps(event | facts), file=lines, flush=True)

        for name in names:
            note(event="begin", item=name)
            begin = time.perf_counter()
            for row in KNOWN[name].rows(size):
                note(event="row", item=name, row=row._asdict())
            note(event="end", item=name, seconds=round(time.perf_counter() - begin, 1))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


class Watch:
    """Items that another process measures, which a new one replaces where it fails.

    Attributes:
      rows: what was measured, and why other items were not.
      failed: whether an item has failed, or a result is outside its tolerance.
    """

    def __init__(self, folder: Path, limits: Mapping[str, float], deadline: float):
        """`limits` has the seconds of each item, in order; `deadline` is by `time.monotonic`."""
        self.rows: list[Row] = []
        self.failed = False
        self._folder = folder
        self._limits = limits
        self._deadline = deadline
        self._waiting = list(limits)

    def run(self, command: Callable[[list[str], Path], list[str]]) -> None:
        """Runs `command(items, file for events)` until every item has ended in some way."""
        while self._waiting:
            # Begin nothing without time for it
            first = self._waiting[0]
            if time.monotonic() + min(_LEAST, self._limits[first]) > self._deadline:
                for name in self._waiting:
                    self._add(name, Row(name, note="not measured: the time was over"))
                return
            reason = self._follow(command)
            # Blame the item in progress; a new process measures the rest
            if reason:
                self.failed = True
                name = self._waiting.pop(0)
                self._add(name, Row(name, note=reason))

    def _follow(self, command: Callable[[list[str], Path], list[str]]) -> str:
        """Follows one process until it ends; returns why its present item failed, or ""."""
        with tempfile.TemporaryDirectory() as folder:
            # Use files: a pipe that is full would stop the process
            events = Path(folder, "events")
            log = Path(folder, "log")
            events.touch()
            with log.open("w") as out, events.open() as reader:
                child = subprocess.Popen(
                    command(self._waiting, events),
                    stdout=out,
                    stderr=subprocess.STDOUT,
                )
                try:
                    over = self._wait(child, reader)
                finally:
                    child.kill()
                    child.wait()
            if over or not self._waiting:
                return over
            # Name the cause by the last line of output
            last = []
            for line in log.read_text(errors="replace").splitlines():
                if line.strip():
                    last.append(line)
            status = f"signal {-child.returncode}" if child.returncode < 0 else "failed"
            return f"{status}: {last[-1].strip()[:100] if last else 'without a message'}"

    def _wait(self, child: subprocess.Popen, reader: TextIO) -> str:
        """Reads events until the process ends; returns whose time was over, or ""."""
        # Until the first item begins, limit the imports alone
        limit = time.monotonic() + STARTING
        unread = ""
        while True:
            # Look before reading, so that no last line is missed
            ended = child.poll() is not None
            # A line that is being written has no end yet
            *lines, unread = (unread + reader.read()).split("\n")
            for event in map(json.loads, lines):
                if event["event"] == "begin":
                    limit = time.monotonic() + self._limits[event["item"]]
                self._happened(event)
            if ended:
                return ""
            now = time.monotonic()
            if now > self._deadline:
                return "stopped: the time of all was over"
            if now > limit:
                return "stopped: its time was over"
            time.sleep(_POLL)

    def _happened(self, event: dict[str, Any]) -> None:
        kind = event.pop("event")
        item = event.pop("item")
        if kind == "row":
            self._add(item, Row(**event.pop("row")), **event)
        if kind == "end":
            self._waiting.remove(item)
            self._write(item=item, **event)

    def _add(self, item: str, row: Row, **facts: Any) -> None:
        self.rows.append(row)
        # A row outside its tolerance fails the whole
        self.failed = self.failed or row.note.endswith(FAILED)
        self._write(item=item, **row._asdict(), **facts)
        print(row.line(), flush=True)

    def _write(self, **line: Any) -> None:
        with (self._folder / "accelerator.jsonl").open("a") as file:
            print(json.dumps(line), file=file)


def run(argv: Sequence[str]) -> None:
    """Measures the items of --items, and prints their table."""
    del argv
    names = ITEMS.value or list(KNOWN)
    for name in names:
        if name not in KNOWN:
            raise InputError(f"unknown item {name!r}: choose among {', '.join(KNOWN)}")
    if EVENTS.value:
        # An orphan would keep the accelerator's memory
        cli.die_with(PARENT.value)
        measure(names, Path(EVENTS.value), SMALL.value)
        return
    folder = Path(OUT.value or os.environ.get("OUT") or "runs/accelerator")
    folder.mkdir(parents=True, exist_ok=True)

    # Measure in a copy of this program, so that a hang can be ended
    def command(items: list[str], events: Path) -> list[str]:
        arguments = [f"--items={','.join(items)}", f"--events={events}", f"--parent={os.getpid()}"]
        if SMALL.value:
            arguments.append("--small")
        return [sys.executable, __file__, *arguments]

    # Below 8 minutes keep the limits of items, and leave out the last ones
    slower = max(1.0, MINUTES.value / 8)
    limits = {name: slower * KNOWN[name].seconds for name in names}
    watch = Watch(folder, limits, time.monotonic() + 60 * MINUTES.value)
    watch.run(command)
    print(f"\n{table(watch.rows)}")
    sys.exit(watch.failed)


if __name__ == "__main__":
    cli.main(run)
