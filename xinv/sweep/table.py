"""The state of a sweep in lines of text, for a terminal."""

import re
import time
from collections import Counter

from tqdm import tqdm

from xinv.sweep.cost import seconds_left
from xinv.sweep.manifest import Piece, Sweep, Unit
from xinv.sweep.tries import DONE, FAILED, RUNNING, WAITING, Board, State, Try

_STEP = re.compile(r": step (\d+/\d+).*, ([\d:]+ left)")
_TAIL = 4096  # bytes of a log that are looked at
_TITLE = "experiment"
_NAME = 32  # columns of a name


def lines(board: Board, width: int = 100, height: int = 24) -> list[str]:
    """Returns a table of the sweep's experiments, in at most `height` lines.

    Experiments that run or have failed come first if there are too many for all.
    """
    sweep = board.sweep
    states = {piece.key: board.state(piece) for piece in sweep.pieces}
    longest = max(len(unit.name) for unit in sweep.units)
    name_width = min(_NAME, max(longest, len(_TITLE)))
    entries = []
    for unit in sweep.units:
        of_unit = {seed: states[Piece(unit, seed).key] for seed in unit.seeds}
        entries.append((_kind(of_unit), _entry(sweep, unit, of_unit, name_width)))
    shown = _fitting(entries, height - 2)
    title = f"{_TITLE:{name_width}}  state   seeds"
    return [line[:width] for line in (title, *shown, summary(board))]


def summary(board: Board) -> str:
    """Returns one line: counts of pieces, and the time that the rest will take."""
    kinds = Counter(board.state(piece).kind for piece in board.sweep.pieces)
    counts = ", ".join(f"{kinds[kind]} {kind}" for kind in (DONE, RUNNING, WAITING, FAILED))
    text = f"{len(board.sweep.pieces)} pieces: {counts}"
    estimate = seconds_left(board)
    workers = max(kinds[RUNNING], 1)
    if estimate.seconds:
        text += f"; about {tqdm.format_interval(estimate.seconds / workers)} left"
    return text


def plan(board: Board) -> list[str]:
    """Returns what a sweep would do: its experiments, the stages they share, and the cost."""
    kinds = Counter(board.state(piece).kind for piece in board.sweep.pieces)
    found = [
        f"{len(board.sweep.units)} experiments, {len(board.sweep.pieces)} pieces (experiment, seed)"
    ]
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
    """The state of an experiment."""
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
    """The lines of an experiment: one for each seed that runs or has failed, at least one."""
    done = sum(state.kind == DONE for state in states.values())
    name = f"{unit.name[:name_width]:{name_width}}"
    head = f"{name}  {_kind(states):8}{done:3} of {len(states)}"
    notes = []
    for seed, state in states.items():
        if state.kind in (RUNNING, FAILED):
            notes.append(_note(sweep, seed, state))
    if not notes:
        return [head]
    # The name is written once
    blank = " " * len(head)
    return [f"{head}  {notes[0]}", *(f"{blank}  {note}" for note in notes[1:])]


def _note(sweep: Sweep, seed: int, state: State) -> str:
    if state.kind == FAILED:
        return f"seed {seed}: {state.reason}"
    attempt = state.running
    kind, _, _ = attempt.place.partition("-")
    what = attempt.label.removesuffix(f", seed {seed}").removeprefix(kind)
    return f"seed {seed}: {kind or 'begins'} {what}".rstrip() + _progress(sweep, attempt)


def _progress(sweep: Sweep, attempt: Try) -> str:
    """The step and the time left, if the worker's log has told them of the present stage."""
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
    """The lines of all entries, or of as many as fit, with a line on the others."""
    total = sum(len(entry) for _, entry in entries)
    if total <= height:
        return [line for _, entry in entries for line in entry]
    order = (RUNNING, FAILED, WAITING, DONE)
    shown = []
    left = Counter()
    for kind, entry in sorted(entries, key=lambda each: order.index(each[0])):
        if len(shown) + len(entry) < height and not left:
            shown += entry
        else:
            left[kind] += 1
    return [*shown, "and " + ", ".join(f"{count} {kind}" for kind, count in left.items())]
