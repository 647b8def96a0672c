"""How a person follows a training: a bar on a terminal, a plain line every ten seconds elsewhere; both on stderr."""

import sys
import time

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Shows step, rate (images/s), time left and loss of the training `name`.

    Args:
      name: what is trained.
      steps: steps of the whole training.
      batch_size: images per step.
      start: steps done before, by a run that was resumed.
    """

    def __init__(self, name: str, steps: int, batch_size: int, start: int = 0):
        self._name, self._steps, self._batch_size, self._start = name, steps, batch_size, start
        self._step, self._loss = start, float("nan")
        self._began = self._last_line = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            total = steps * batch_size
            self._bar = tqdm(
                total=total, initial=start * batch_size, desc=name, unit="img", unit_scale=True, leave=False
            )

    def update(self, step: int, loss: float) -> None:
        """Says that `step` steps are done and what the latest loss is."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"step {step}/{self._steps}, loss {loss:.4g}", refresh=False)
            self._bar.update((step - self._step) * self._batch_size)
        self._step, self._loss = step, loss
        if self._bar is None and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            left = (self._last_line - self._began) * (self._steps - step) / max(step - self._start, 1)
            self._print(f"{tqdm.format_interval(left)} left")

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        """Ends the display with one line."""
        if self._bar is not None:
            self._bar.close()
        self._print(f"took {tqdm.format_interval(time.monotonic() - self._began)}")

    def _print(self, note: str) -> None:
        rate = (self._step - self._start) * self._batch_size / max(time.monotonic() - self._began, 1e-9)
        line = f"{self._name}: step {self._step}/{self._steps}, {rate:.0f} images/s, loss {self._loss:.4g}, {note}"
        print(line, file=sys.stderr, flush=True)
