"""Sweeps by pieces that train nothing: what workers do with them, and what is read from files."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from xinv import store, sweep, train
from xinv.audit import results
from xinv.audit.run import Found
from xinv.leases import Busy
from xinv.sweep import work
from xinv.sweep.tries import record
from xinv.types import InputError

SEEDS = 2


@pytest.fixture
def fakes(monkeypatch):
    """Takes a small stage in the place of each audit; the name of an experiment says what goes
    wrong.
    """
    computed = []

    def compute(service, seed):
        unit, stages = service.config["unit"], service.stages
        shared = {"seed": seed}
        stages.computed("shared", f"shared, seed {seed}", shared, lambda: built("shared", seed))
        if unit == "raises":
            stages.computed("own", f"{unit}, seed {seed}", shared | {"unit": unit}, fail)
        if unit == "rejected":
            raise InputError("there is no image")
        if unit == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/runs/x.npy")
        if unit == "diverges":
            raise train.Diverged("loss is nan")
        if unit.startswith("nested"):
            stages.computed("outer", "", shared, lambda: nested(stages, seed))
        stages.computed(
            "own", f"{unit}, seed {seed}", shared | {"unit": unit}, lambda: built(unit, seed)
        )
        return Found([{"unit": unit, "seed": seed, "value": 0.1 + seed}], [])

    def built(name, seed):
        computed.append((name, seed))
        return {"x": np.zeros(3)}

    def nested(stages, seed):
        stages.computed("inner", "", {"seed": seed}, lambda: built("inner", seed))
        return built("outer", seed)

    def fail():
        raise RuntimeError("no such operation\nsecond line")

    def write(service, folder, found, seconds):
        assert seconds >= 0
        results.begin(folder, service.config)
        rows = [row for seed in sorted(found) for row in found[seed].rows]
        store.write_text(folder / results.ROWS, "".join(json.dumps(row) + "\n" for row in rows))

    monkeypatch.setattr(
        work, "opened", lambda config, stages, load: SimpleNamespace(config=config, stages=stages)
    )
    monkeypatch.setattr(work, "validate", lambda service: None)
    monkeypatch.setattr(work, "computed", compute)
    monkeypatch.setattr(work, "write", write)
    return computed


def create(workdir, *names, stages=None):
    configs = [{"unit": name, "seed": 0, "seeds": SEEDS, "size": (8, 8)} for name in names]
    sweep.write(workdir, sweep.describe(configs, stages))
    return sweep.read(workdir)


def run(found, **options):
    with store.opened(found.stages) as stages:
        return sweep.Worker(found, stages, say=lambda line: None, **options).run()


def at_once(*sweeps):
    """Has a worker of each sweep work at the same time."""
    threads = []
    for number, found in enumerate(sweeps):
        threads.append(threading.Thread(target=run, args=(found,), kwargs={"number": number}))
        threads[-1].start()
    for thread in threads:
        thread.join()


def kinds(found):
    board = sweep.Board(found)
    return [board.state(piece).kind for piece in found.pieces]


def left(workdir):
    """Files that a finished sweep does not have."""
    temporary = ("*.lease", ".lease", "*.partial", "tries/*", "pieces/*")
    return [path for pattern in temporary for path in workdir.rglob(pattern)]


def test_each_stage_once(tmp_path, fakes):
    """Two workers at once build every stage once, and write the rows of one."""
    alone, both = (
        create(tmp_path / "alone", "a", "b", "c"),
        create(tmp_path / "both", "a", "b", "c"),
    )
    assert run(alone) == sweep.Outcome((), ())
    once = sorted(fakes)
    fakes.clear()
    at_once(both, both)
    assert sorted(fakes) == once
    assert len(once) == SEEDS * (1 + 3)
    for one, other in zip(alone.units, both.units, strict=True):
        assert (one.folder / "rows.jsonl").read_bytes() == (
            other.folder / "rows.jsonl"
        ).read_bytes()
    assert set(kinds(both)) == {sweep.DONE}
    assert left(tmp_path) == []


def test_sweeps_share_a_store(tmp_path, fakes):
    """Two sweeps on one store build what they share once."""
    one, other = (create(tmp_path / name, "a", name, stages=tmp_path / "store") for name in "bc")
    at_once(one, other)
    assert sorted(fakes) == sorted(
        (name, seed) for name in ("shared", "a", "b", "c") for seed in range(SEEDS)
    )
    assert set(kinds(one) + kinds(other)) == {sweep.DONE}
    assert left(tmp_path) == []


def test_lease_of_a_killed_worker_is_removed(tmp_path, fakes):
    """Also of one that was killed between two pieces, without a try."""
    found = create(tmp_path, "a")
    (tmp_path / "workers").mkdir()
    script = (
        "import os, sys; from pathlib import Path; from xinv.leases import Leases;"
        "held = Leases().hold(Path(sys.argv[1])); held.__enter__(); os._exit(9)"
    )
    dead = found.lease("dead")
    subprocess.run([sys.executable, "-c", script, dead], check=False)
    assert dead.exists()
    run(found)
    assert left(tmp_path) == []


def test_busy_stage_left(tmp_path, fakes):
    """While another process builds a stage, a worker does what does not need it."""
    found = create(tmp_path, "a")
    with store.opened(found.stages) as others:
        stage, _ = others.find("own", {"seed": 0, "unit": "a"})
        found.stages.mkdir()
        with others.leases.hold(found.stages / f"{stage.path.name}.lease"):
            worker = threading.Thread(target=run, args=(found,))
            worker.start()
            deadline = time.monotonic() + 20
            while kinds(found)[1] != sweep.DONE and time.monotonic() < deadline:
                time.sleep(0.02)
            assert fakes == [("shared", 0), ("shared", 1), ("a", 1)]
            assert kinds(found)[0] != sweep.DONE
        worker.join()
    assert fakes[3:] == [("a", 0)]
    assert left(tmp_path) == []


def test_failure_named_after_three_tries(tmp_path, fakes):
    """An experiment that raises is given up, named and left alone; the others are done."""
    found = create(tmp_path, "a", "raises", "b")
    sentence = "raises, seed 0: RuntimeError: no such operation (3 tries)"
    for _ in range(2):
        outcome = run(found)
        assert outcome.failed[0] == sentence
        assert outcome.rejected == ()
        assert [sweep.Board(found).is_finished(unit) for unit in found.units] == [True, False, True]
    assert len(list(found.units[1].folder.glob("tries/*"))) == 3 * SEEDS
    sweep.Board(found).forget()
    assert kinds(found)[2] == sweep.FAILED
    sweep.Board(found).forget(failed=True)
    assert kinds(found)[2] == sweep.WAITING


def test_input_error_counts_no_try(tmp_path, fakes):
    """What a person can mend is told, and tried again by the next worker."""
    found = create(tmp_path, "rejected", "full", "a")
    outcome = run(found)
    assert outcome.failed == ()
    assert outcome.rejected[0] == "rejected, seed 0: there is no image"
    assert outcome.rejected[2] == "full, seed 0: /runs/x.npy: No space left on device"
    assert kinds(found) == [sweep.WAITING] * 4 + [sweep.DONE] * 2


def test_divergence_is_final(tmp_path, fakes):
    """An experiment that diverges would diverge again."""
    found = create(tmp_path, "diverges")
    assert run(found).failed[0] == "diverges, seed 0: loss is nan"
    assert len(list(found.units[0].folder.glob("tries/*"))) == SEEDS


def test_unwritten_results_told(tmp_path, fakes, monkeypatch):
    """An experiment whose results cannot be put together is told, and the others are written."""
    found = create(tmp_path, "a", "b")
    written = work.write

    def write(service, *others):
        if service.config["unit"] == "a":
            raise ZeroDivisionError("no examples")
        written(service, *others)

    monkeypatch.setattr(work, "write", write)
    assert run(found) == sweep.Outcome((), ("a: ZeroDivisionError: no examples",))
    assert [sweep.Board(found).is_finished(unit) for unit in found.units] == [False, True]


def killed(found, *places):
    """Leaves tries of workers that are no more, one at each place."""
    board = sweep.Board(found)
    for number, place in enumerate(places):
        path, attempt = board.begin(found.pieces[0], f"worker{number}", number)
        record(path, attempt._replace(place=place, label="target, seed 0"))


@pytest.mark.parametrize(
    ("places", "kind"),
    [
        (["", ""], sweep.WAITING),
        (["", "", ""], sweep.FAILED),
        (["target-1 0", "target-1 200", "target-1 400"], sweep.WAITING),
        (["target-1 0", "target-1 200", "target-1 200", "target-1 200"], sweep.FAILED),
    ],
)
def test_killed_workers_counted(tmp_path, fakes, places, kind):
    """Three tries that end at one place fail the piece; one that comes further does not."""
    found = create(tmp_path, "a")
    killed(found, *places)
    assert kinds(found)[0] == kind
    if kind == sweep.FAILED:
        assert "a, seed 0: its worker was killed in target, seed 0 (3 tries)" in run(found).failed


def test_place_has_checkpoint(tmp_path):
    """A place is a stage and its newest checkpoint."""
    folder = tmp_path / "target-12ab.34cd.partial"
    for step in ("200", "1000", "300.orbax-checkpoint-tmp"):
        (folder / "checkpoints" / step).mkdir(parents=True)
    assert work.place(folder) == "target-12ab 1000"


def test_stop_leaves_no_try(tmp_path, fakes):
    """A worker that is told to stop leaves before the next stage, and no try of it counts."""
    found = create(tmp_path, "a", "b")
    with pytest.raises(train.Stopped):
        run(found, stop=lambda: len(fakes) == 3)
    assert len(fakes) == 3
    assert left(tmp_path) == [*found.units[0].folder.glob("pieces/*")]


def test_changed_sweep_waits_for_workers(tmp_path, fakes):
    """Another sweep in the same folder is refused while workers are at this one."""
    found = create(tmp_path, "a", "b")
    with store.opened(found.stages) as stages:
        (tmp_path / "workers").mkdir()
        with stages.leases.hold(found.lease("living")):
            create(tmp_path, "a", "b")
            with pytest.raises(InputError, match="in which unit 1 differs: give another --workdir"):
                create(tmp_path, "a", "c")
    assert [unit.name for unit in create(tmp_path, "a", "c").units] == ["a", "c"]


def test_manifest_of_other_version_refused(tmp_path, fakes):
    """A manifest is read by the version that wrote it, and one that is missing is told."""
    with pytest.raises(InputError, match=r"has no manifest\.json"):
        sweep.read(tmp_path)
    create(tmp_path, "a")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"version": "0.0.1"}))
    with pytest.raises(InputError, match=r"written by xinv 0\.0\.1 and this is"):
        create(tmp_path, "a")


def test_cost_counts_shared_stages_once(tmp_path, fakes):
    """Seed 1 is estimated from seed 0: a stage of two experiments counts once."""
    found = create(tmp_path, "a", "b")
    board = sweep.Board(found)
    assert sweep.seconds_left(board).seconds is None
    with pytest.raises(train.Stopped):
        run(found, stop=lambda: len(fakes) == 4)
    assert sorted(fakes) == [("a", 0), ("a", 1), ("shared", 0), ("shared", 1)]
    # The seed of "b" that is left needs a stage of its own (2 s), and a shared one that is there
    with pytest.raises(train.Stopped):
        run(found, stop=lambda: len(fakes) == 5)
    for path in found.stages.glob("*/cost.json"):
        path.write_text(
            json.dumps(
                {"label": "", "seconds": 7.0 if path.parent.name.startswith("shared") else 2.0}
            )
        )
    assert kinds(found) == [sweep.DONE] * 3 + [sweep.WAITING]
    assert sweep.seconds_left(board) == (2.0, 1, 1, 0)
    run(found)
    assert sweep.seconds_left(sweep.Board(found)).seconds == 0


def test_cost_has_stages_within_others(tmp_path, fakes):
    """A seed that took a stage of another sweep still knows what that stage had needed."""
    for name in ("nested", "nested too"):
        found = create(tmp_path / name, name, stages=tmp_path / "store")
        with pytest.raises(train.Stopped):
            run(found, stop=lambda: sweep.DONE in kinds(found))  # noqa: B023 (called in the loop)
    assert ("inner", 1) not in fakes
    # Of seed 1: shared, outer, inner and its own
    assert sweep.seconds_left(sweep.Board(found)).stages == 4


def test_table_fits(tmp_path, fakes):
    """The table shows what runs with its progress and what has failed, in the lines there are."""
    found = create(tmp_path, *"abcdefghi")
    board = sweep.Board(found)
    (tmp_path / "workers").mkdir()
    with store.opened(found.stages) as stages, stages.leases.hold(found.lease("living")):
        path, attempt = board.begin(found.pieces[1], "living", 3)
        record(path, attempt._replace(place="attack-12 0", label="gradient, seed 1"))
        killed(found, "", "", "")
        found.log(3).write_text("gradient, seed 1: step 3/60, 99 images/s, loss 0.1, 00:41 left\n")
        shown = sweep.lines(board, width=90, height=6)
    assert (
        shown[1]
        == "a           running   0 of 2  seed 0: its worker was killed in target, seed 0 (3 tries)"
    )
    assert (
        shown[2] == "                              seed 1: attack gradient, step 3/60, 00:41 left"
    )
    assert shown[3:5] == ["b           waiting   0 of 2", "and 7 waiting"]
    assert shown[5] == "18 pieces: 0 done, 1 running, 16 waiting, 1 failed"
    assert all(len(line) <= 90 for line in shown)


def test_running_while_worked_on(tmp_path, fakes):
    """A piece runs while its worker lives, and leaves no trace of that."""
    found = create(tmp_path, "a")
    seen = []
    run(found, stop=lambda: seen.append(kinds(found)[0]))
    assert sweep.RUNNING in seen
    assert left(tmp_path) == []


def test_run_waits_for_others(tmp_path, monkeypatch, capsys):
    """A run takes its other seed while a process is at the first, then waits, and says so once."""
    module, asked = sys.modules["xinv.audit.run"], []

    def compute(service, seed):
        asked.append(seed)
        if seed == 0 and len(asked) < 4:
            raise Busy("another process works on target-1")
        return Found([seed], [])

    service = SimpleNamespace(config={}, classifiers=SimpleNamespace(seeds=range(2)))
    monkeypatch.setattr(module, "_PAUSE", 0.0)
    monkeypatch.setattr(module, "is_written", lambda *_: True)
    monkeypatch.setattr(module, "computed", compute)
    monkeypatch.setattr(module, "write", lambda service, folder, found, seconds: sorted(found))
    assert module.audited(service, tmp_path, 0.0) == [0, 1]
    assert asked == [0, 1, 0, 0]
    assert capsys.readouterr().err == "waiting: another process works on target-1\n"
