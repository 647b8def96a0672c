"""The state of a sweep in lines of text, for a terminal."""

import re
import time
from collections import Counter

from tqdm import tqdm

from xinv.sweep.cost import seconds_left
from xinv.sweep.manifest import Piece, Sweep, Unit
from xinv.sweep.tries import DONE, FAILED, RUNNING, WAITING, Board, State, Try

_STEP = re.compile(r": step (\d+/\d+).*, ([\d:]+ left)")
# Bytes at the end of a log
_TAIL = 4096
_TITLE = "experiment"
# Columns of a name
_NAME = 32


def lines(board: Board, width: int = 100, height: int = 24) -> list[str]:
    """Returns a table of the sweep's experiments, in at most `height` lines.

    If there are too many, running and failed ones come first.
    """
    # Look at each piece once: its state costs reads of files
    sweep = board.sweep
    states = {piece.key: board.state(piece) for piece in sweep.pieces}
    longest = max(len(unit.name) for unit in sweep.units)
    name_width = min(_NAME, max(longest, len(_TITLE)))
    entries = []
    for unit in sweep.units:
        of_unit = {seed: states[Piece(unit, seed).key] for seed in unit.seeds}
        entries.append((_kind(of_unit), _entry(sweep, unit, of_unit, name_width)))
    # Title and summary take two lines
    shown = _fitting(entries, height - 2)
    title = f"{_TITLE:{name_width}}  state   seeds"
    return [line[:width] for line in (title, *shown, summary(board))]


def summary(board: Board) -> str:
    """Returns one line: counts of pieces, and the remaining time."""
    kinds = Counter(board.state(piece).kind for piece in board.sweep.pieces)
    counts = ", ".join(f"{kinds[kind]} {kind}" for kind in (DONE, RUNNING, WAITING, FAILED))
    text = f"{len(board.sweep.pieces)} pieces: {counts}"
    estimate = seconds_left(board)
    # Workers share the rest evenly
    workers = max(kinds[RUNNING], 1)
    if estimate.seconds:
        text += f"; about {tqdm.format_interval(estimate.seconds / workers)} left"
    return text


def plan(board: Board) -> list[str]:
    """Returns a preview of a sweep: its experiments, the stages they share, and the cost."""
    kinds = Counter(board.state(piece).kind for piece in board.sweep.pieces)
    found = [
        f"{len(board.sweep.units)} experiments, {len(board.sweep.pieces)} pieces (experiment, seed)"
    ]
    # Experiments with the states of their seeds, then stages, then cost
    for unit in board.sweep.units:
        states = Counter(board.state(Piece(unit, seed)).kind for seed in unit.seeds)
        found.append(
            f"  {unit.number:4} {unit.name}: " + ", ".join(f"{n} {k}" for k, n in states.items())
        )
    found.append(
        f"stages in {board.sweep.stages}: {len(list(board.sweep.stages.glob('*/spec.json')))}"
    )
    estimate = seconds_left(board)
    if not kinds[WAITING] and not kinds[RUNNING]:
        found.append("nothing is left to do")
    elif estimate.seconds is None:
        found.append("cost: unknown until a piece is done")
    else:
        found.append(
            f"cost: {tqdm.format_interval(estimate.seconds)} of one worker, from equal stages of"
            f" {estimate.known} pieces: {estimate.stages} stages to do, {estimate.shared} uses"
            " shared"
        )
    return found


def _kind(states: dict[int, State]) -> str:
    """Returns the state of an experiment."""
    kinds = {state.kind for state in states.values()}
    for kind in (RUNNING, FAILED, WAITING):
        if kind in kinds:
            return kind
    return DONE


def _entry(
    sweep: Sweep,
    unit: Unit,
    states: dict[int, State],
    name_width: int,
) -> list[str]:
    """Returns an experiment's lines: one per running or failed seed, at least one."""
    done = sum(state.kind == DONE for state in states.values())
    name = f"{unit.name[:name_width]:{name_width}}"
    head = f"{name}  {_kind(states):8}{done:3} of {len(states)}"
    notes = []
    for seed, state in states.items():
        if state.kind in (RUNNING, FAILED):
            notes.append(_note(sweep, seed, state))
    if not notes:
        return [head]
    # Write the name once
    blank = " " * len(head)
    return [f"{head}  {notes[0]}", *(f"{blank}  {note}" for note in notes[1:])]


def _note(sweep: Sweep, seed: int, state: State) -> str:
    if state.kind == FAILED:
        return f"seed {seed}: {state.reason}"
    attempt = state.running
    kind, _, _ = attempt.place.partition("-")
    # A label repeats the stage's kind and the seed
    what = attempt.label.removesuffix(f", seed {seed}").removeprefix(kind)
    return f"seed {seed}: {kind or 'begins'} {what}".rstrip() + _progress(sweep, attempt)


def _progress(sweep: Sweep, attempt: Try) -> str:
    """Returns the step and time left of the present stage by the worker's log, or its age."""
    # Read the end alone: a log may be long
    log = sweep.log(attempt.number)
    if log.exists():
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            tail = file.read().decode(errors="replace").splitlines()
        last = next((line for line in reversed(tail) if line.startswith(attempt.label)), "")
        step = _STEP.search(last)
        if attempt.label and step:
            return f", step {step[1]}, {step[2]}"
    return f", {tqdm.format_interval(max(0.0, time.time() - attempt.started))}"


def _fitting(entries: list[tuple[str, list[str]]], height: int) -> list[str]:
    """Returns the lines of all entries, or of as many as fit, with a line on the others."""
    total = sum(len(entry) for _, entry in entries)
    if total <= height:
        return [line for _, entry in entries for line in entry]
    order = (RUNNING, FAILED, WAITING, DONE)
    shown = []
    left = Counter()
    # Once an entry does not fit, the rest is counted, in the same order
    for kind, entry in sorted(entries, key=lambda each: order.index(each[0])):
        if len(shown) + len(entry) < height and not left:
            shown += entry
        else:
            left[kind] += 1
    return [*shown, "and " + ", ".join(f"{count} {kind}" for kind, count in left.items())]
