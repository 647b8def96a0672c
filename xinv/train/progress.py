"""The progress of a training: losses, history, patience; a bar or plain lines on stderr."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import jax
import numpy as np
from tqdm import tqdm

from xinv import processes
from xinv.train.recipe import Recipe
from xinv.types import InputError

_SECONDS_BETWEEN_LINES = 10.0

Log = Callable[[int, dict[str, float]], None]


class Diverged(InputError):  # noqa: N818 (an event, named as the field names it)
    """A loss is no longer finite, or beyond its limit; the last finite checkpoint stays."""


def require_finite(
    values: Mapping[str, float],
    step: int,
    name: str,
    advice: str,
) -> None:
    """Raises Diverged for the first value that is NaN or infinite."""
    for what, value in values.items():
        if not math.isfinite(value):
            raise Diverged(f"{name}: {what} is {value} at step {step}: {advice}")


@dataclass
class Record:
    """The progress of a training, in JSON values, ready for a checkpoint.

    Attributes:
      step: steps with known metrics.
      totals: sums of the metrics over the steps of the present epoch.
      history: means of the metrics, per epoch.
      lowest: the best validation loss.
      waited: epochs since then.
      kept: the last epoch with kept variables; 0 before.
      beyond: the metrics beyond their limits in the last epoch, in words.
    """

    step: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    history: dict[str, list[float]] = field(default_factory=dict)
    lowest: float | None = None
    waited: int = 0
    kept: int = 0
    beyond: str = ""


class TrainingMonitor:
    """The record of a training as it goes on, logged by `log` and shown to people.

    Shown are step, rate (images/s), time left and loss.
    """

    def __init__(
        self,
        name: str,
        advice: str,
        log: Log | None,
        record: Record,
        recipe: Recipe,
        steps_per_epoch: int,
    ):
        self.record = record
        self.diverged = ""
        self._name = name
        self._advice = advice
        self._log = log
        self._steps_per_epoch = steps_per_epoch
        steps = recipe.epochs * steps_per_epoch
        self._display = _Display(name, steps, recipe.batch_size, record.step)

    def __enter__(self) -> "TrainingMonitor":
        return self

    def __exit__(self, *error: object) -> None:
        self._display.close()

    def follow(self, metrics: Mapping[str, jax.Array] | None) -> None:
        """Fetches the metrics of one dispatch (scalars, or [steps] for many) and enters them."""
        if metrics is None:
            return
        # Each step is entered by itself, however many one dispatch ran
        columns = {}
        for name, values in metrics.items():
            columns[name] = np.atleast_1d(values).astype(np.float64).tolist()
        for row in zip(*columns.values(), strict=True):
            self._enter_step(dict(zip(columns, row, strict=True)))
        shown = "loss" if "loss" in columns else next(iter(columns))
        self._display.update(self.record.step, columns[shown][-1])

    def judge(self, score: float | None, limits: Mapping[str, float]) -> bool:
        """Tells if the variables after an epoch are to be kept.

        They are, if the epoch is within the limits and has the best validation loss, if any.
        """
        record = self.record
        # The limits hold for the mean of the epoch, which is entered by now
        beyond = []
        for name, most in limits.items():
            mean = record.history[name][-1]
            if mean > most:
                beyond.append(f"{name} is {mean:.3g}, above {most:.3g}")
        record.beyond = "; ".join(beyond)
        # A validation loss is entered even if the epoch is beyond a limit
        better = score is None or self._improves(score)
        if beyond or not better:
            return False
        record.kept = record.step // self._steps_per_epoch
        return True

    def _improves(self, score: float) -> bool:
        """Enters an epoch's validation loss; true if it is the best so far."""
        record = self.record
        require_finite({"validation_loss": score}, record.step, self._name, self._advice)
        self._enter_epoch({"validation_loss": score})
        if record.lowest is not None and score >= record.lowest:
            record.waited += 1
            return False
        record.lowest = score
        record.waited = 0
        return True

    @contextlib.contextmanager
    def surviving(self, keeps: bool) -> Iterator[None]:
        """Ends a diverging training with a message, if it `keeps` variables and has some.

        A training diverges if a value is not finite, or if its last epoch is beyond a limit.
        """
        record = self.record
        try:
            yield
            if record.beyond:
                raise Diverged(f"{self._name}: {record.beyond} in the last epoch: {self._advice}")
        except Diverged as error:
            # Without variables of an earlier epoch there is no result
            if not keeps or not record.kept:
                raise
            self.diverged = f"{error}; the state after epoch {record.kept} is kept"
            processes.say(self.diverged)

    def _enter_step(self, values: dict[str, float]) -> None:
        record = self.record
        record.step += 1
        require_finite(values, record.step, self._name, self._advice)
        # Sums, of which an epoch makes means
        totals = {}
        for name, value in values.items():
            totals[name] = record.totals.get(name, 0.0) + value
        record.totals = totals
        self._tell(values)
        if record.step % self._steps_per_epoch == 0:
            means = {name: total / self._steps_per_epoch for name, total in totals.items()}
            self._enter_epoch(means)
            record.totals = {}

    def _enter_epoch(self, values: dict[str, float]) -> None:
        # Told under a name of their own, beside those of steps
        tagged = {}
        for name, value in values.items():
            self.record.history.setdefault(name, []).append(value)
            tagged[f"epoch/{name}"] = value
        self._tell(tagged)

    def _tell(self, values: dict[str, float]) -> None:
        if self._log is not None:
            self._log(self.record.step, values)


class _Display:
    """A bar on a terminal; elsewhere a line every ten seconds and at the end."""

    def __init__(
        self,
        name: str,
        steps: int,
        batch_size: int,
        start: int,
    ):
        self._name = name
        self._steps = steps
        self._batch_size = batch_size
        self._start = start
        self._step = start
        self._loss = float("nan")
        self._began = time.monotonic()
        self._last_line = self._began
        self._bar = None
        # In a log file a bar would be thousands of lines
        if sys.stderr.isatty() and processes.leads():
            self._bar = tqdm(
                total=steps * batch_size,
                initial=start * batch_size,
                desc=name,
                unit="img",
                unit_scale=True,
                leave=False,
            )

    def update(self, step: int, loss: float) -> None:
        now = time.monotonic()
        if self._bar is not None:
            # The bar counts images
            note = f"step {step}/{self._steps}, loss {loss:.4g}"
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update((step - self._step) * self._batch_size)
        self._step = step
        self._loss = loss
        if self._bar is None and now - self._last_line > _SECONDS_BETWEEN_LINES:
            # The rate of this process alone: earlier steps may be of another machine
            seconds_per_step = (now - self._began) / (step - self._start)
            left = seconds_per_step * (self._steps - step)
            self._print(f"{tqdm.format_interval(left)} left")
            self._last_line = now

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._step > self._start:
            self._print(f"{time.monotonic() - self._began:.1f} s")

    def _print(self, note: str) -> None:
        # Images of all devices, since the start of this process
        seconds = max(time.monotonic() - self._began, 1e-9)
        images = (self._step - self._start) * self._batch_size
        parts = [
            f"{self._name}: step {self._step}/{self._steps}",
            f"{images / seconds:.0f} images/s",
            f"loss {self._loss:.4g}",
            note,
        ]
        processes.say(", ".join(parts))
