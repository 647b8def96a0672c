"""What the host knows of a training and shows of it: losses, history, patience; a bar or plain lines on stderr."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import jax
import numpy as np
from tqdm import tqdm

from xinv.types import InputError

_SECONDS_BETWEEN_LINES = 10.0

Log = Callable[[int, dict[str, float]], None]


class Diverged(InputError):  # noqa: N818 (an event, named as the field names it)
    """A loss is no longer finite, or beyond its limit; the last finite checkpoint stays."""


def require_finite(values: Mapping[str, float], step: int, name: str, advice: str) -> None:
    """Raises Diverged for the first value that is NaN or infinite."""
    for what, value in values.items():
        if not math.isfinite(value):
            raise Diverged(f"{name}: {what} is {value} at step {step}: {advice}")


@dataclass
class Record:
    """How far a training is: JSON values, which a checkpoint holds as they are.

    Attributes:
      step: steps whose metrics are known.
      totals: sums of the metrics over the steps of the present epoch.
      history: means of the metrics, per epoch.
      lowest: the best validation loss.
      waited: epochs since then.
      kept: the epoch after which variables were kept last; 0 before that.
      beyond: which metrics were beyond their limits in the last epoch, in words.
    """

    step: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    history: dict[str, list[float]] = field(default_factory=dict)
    lowest: float | None = None
    waited: int = 0
    kept: int = 0
    beyond: str = ""


class TrainingMonitor:
    """Keeps the record of the training `name`, tells `log`, and shows step, rate (images/s), time left and loss."""

    def __init__(
        self,
        name: str,
        advice: str,
        log: Log | None,
        record: Record,
        epochs: int,
        steps_per_epoch: int,
        batch_size: int,
    ):
        self.record, self.diverged = record, ""
        self._name, self._advice, self._log = name, advice, log
        self._steps_per_epoch = steps_per_epoch
        self._display = _Display(name, epochs * steps_per_epoch, batch_size, record.step)

    def __enter__(self) -> "TrainingMonitor":
        return self

    def __exit__(self, *error: object) -> None:
        self._display.close()

    def follow(self, metrics: Mapping[str, jax.Array] | None) -> None:
        """Fetches the metrics of one dispatch (scalars, or [steps] for many) and enters them."""
        if metrics is None:
            return
        columns = {name: np.atleast_1d(value).astype(np.float64).tolist() for name, value in metrics.items()}
        for row in zip(*columns.values(), strict=True):
            self._enter_step(dict(zip(columns, row, strict=True)))
        self._display.update(self.record.step, columns.get("loss", next(iter(columns.values())))[-1])

    def judge(self, score: float | None, limits: Mapping[str, float]) -> bool:
        """Whether to keep the variables after an epoch: within the limits, with the best validation loss if any."""
        record = self.record
        means = {name: (record.history[name][-1], most) for name, most in limits.items()}
        record.beyond = "; ".join(
            f"{name} is {mean:.3g}, above {most:.3g}" for name, (mean, most) in means.items() if mean > most
        )
        better = (score is None or self._improves(score)) and not record.beyond
        record.kept = record.step // self._steps_per_epoch if better else record.kept
        return better

    def _improves(self, score: float) -> bool:
        """Enters an epoch's validation loss; true where it is the best so far."""
        record = self.record
        require_finite({"validation_loss": score}, record.step, self._name, self._advice)
        self._enter_epoch({"validation_loss": score})
        better = record.lowest is None or score < record.lowest
        record.lowest, record.waited = (score, 0) if better else (record.lowest, record.waited + 1)
        return better

    @contextlib.contextmanager
    def surviving(self, keeps: bool) -> Iterator[None]:
        """Ends a diverging training with a message, if it `keeps` variables of an epoch within its limits and has some.

        A training has diverged when something is no longer finite, or when its last epoch is beyond a limit.
        """
        record = self.record
        try:
            yield
            if record.beyond:
                raise Diverged(f"{self._name}: {record.beyond} in the last epoch: {self._advice}")
        except Diverged as error:
            if not keeps or not record.kept:
                raise
            self.diverged = f"{error}; the state after epoch {record.kept} is kept"
            print(self.diverged, file=sys.stderr, flush=True)

    def _enter_step(self, values: dict[str, float]) -> None:
        record = self.record
        record.step += 1
        require_finite(values, record.step, self._name, self._advice)
        record.totals = {name: record.totals.get(name, 0.0) + value for name, value in values.items()}
        self._tell(values)
        if record.step % self._steps_per_epoch == 0:
            self._enter_epoch({name: total / self._steps_per_epoch for name, total in record.totals.items()})
            record.totals = {}

    def _enter_epoch(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.record.history.setdefault(name, []).append(value)
        self._tell({f"epoch/{name}": value for name, value in values.items()})

    def _tell(self, values: dict[str, float]) -> None:
        if self._log is not None:
            self._log(self.record.step, values)


class _Display:
    """A bar on a terminal; elsewhere a line every ten seconds and at the end."""

    def __init__(self, name: str, steps: int, batch_size: int, start: int):
        self._name, self._steps, self._batch_size, self._start = name, steps, batch_size, start
        self._step, self._loss = start, float("nan")
        self._began = self._last_line = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            images = steps * batch_size
            self._bar = tqdm(
                total=images, initial=start * batch_size, desc=name, unit="img", unit_scale=True, leave=False
            )

    def update(self, step: int, loss: float) -> None:
        now = time.monotonic()
        if self._bar is not None:
            self._bar.set_postfix_str(f"step {step}/{self._steps}, loss {loss:.4g}", refresh=False)
            self._bar.update((step - self._step) * self._batch_size)
        self._step, self._loss = step, loss
        if self._bar is None and now - self._last_line > _SECONDS_BETWEEN_LINES:
            left = (now - self._began) * (self._steps - step) / (step - self._start)
            self._print(f"{tqdm.format_interval(left)} left")
            self._last_line = now

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._step > self._start:
            self._print(f"{time.monotonic() - self._began:.1f} s")

    def _print(self, note: str) -> None:
        rate = (self._step - self._start) * self._batch_size / max(time.monotonic() - self._began, 1e-9)
        line = f"{self._name}: step {self._step}/{self._steps}, {rate:.0f} images/s, loss {self._loss:.4g}, {note}"
        print(line, file=sys.stderr, flush=True)
