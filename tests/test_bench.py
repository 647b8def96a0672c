"""`launch/bench.py explainers` and `membership` run, and the first says what it does not know."""

import dataclasses
import re
from pathlib import Path

import pytest
from launched import launch

LAUNCH = Path(__file__).parents[1] / "launch"


@pytest.mark.slow
def test_a_row_per_method(monkeypatch, capsys):
    monkeypatch.syspath_prepend(LAUNCH)
    import bench_explainers

    bench_explainers.run(1, 1, ["gradcam", "lime"], ["cnn"])
    printed = capsys.readouterr().out
    assert "xinv alone" in printed
    for name in ("gradcam", "lime"):
        rate, share = re.search(rf"^  {name} +(\S+) +(\d+)%", printed, re.MULTILINE).groups()
        assert min(float(rate), int(share)) > 0


@pytest.mark.slow
def test_first_map(monkeypatch, capsys):
    """Trace and compile add up, and the ratio is to jax.grad's sum."""
    monkeypatch.syspath_prepend(LAUNCH)
    import bench_explainers

    small = {"tiny": bench_explainers.Network(bench_explainers.models.cnn(3, (4,), 5), (8, 8, 1))}
    monkeypatch.setattr(bench_explainers, "FIRST_NETWORKS", small)
    bench_explainers.first(["saliency", "lrp"], None)
    printed = capsys.readouterr().out
    rows = {
        name: re.search(rf"^  {name} +(.*)$", printed, re.MULTILINE)[1]
        for name in ("jax.grad", "saliency", "lrp")
    }
    numbers = {name: [float(value) for value in row.split()] for name, row in rows.items()}
    for trace, compile_, total, ratio in numbers.values():
        assert min(trace, compile_) > 0
        assert abs(trace + compile_ - total) < 0.02
        assert abs(ratio - total / numbers["jax.grad"][2]) < 0.3 * ratio  # printed with two digits
    assert numbers["jax.grad"][3] == 1


@pytest.mark.slow
def test_membership_rates(monkeypatch, capsys):
    """Every part prints a positive rate, and attacks on other goals are left out."""
    monkeypatch.syspath_prepend(LAUNCH)
    import bench_membership

    small = bench_membership.AUDIT
    small.train.epochs = 1
    small.attack_train.epochs = 1
    small = dataclasses.replace(
        small,
        explainers={"saliency": {}},
        model=small.model | dict(width=0.0625),
        attack=dict(trunk="mlp", width=0.25, restarts=2),
        data=small.data | dict(transform=small.data["transform"] | dict(resize=None)),
    )
    for name, value in dict(
        SIDE=8,
        NETWORKS={"cnn": 0.125},
        RESTARTS=2,
        TARGET=bench_membership.models.cnn(bench_membership.CLASSES, (4,), 5),
        DEEPLEAK=("saliency", "protodash"),
        EXPLAINED=2,
        REFERENCES=8,
        CANDIDATES=128,
        SHADOWS=4,
        AUDIT=small,
    ).items():
        monkeypatch.setattr(bench_membership, name, value)
    bench_membership.run(4, 1, 1)
    printed = capsys.readouterr().out
    rows = [
        r"membership, cnn, width 0.125, float32: maps/s: xinv +(\S+)",
        r"2 restarts, cnn, .*ratio ([\d.]+)",
        r"saliency +maps/s +(\S+)",
        r"protodash +maps/s +(\S+)",
        r"map_statistic +fits/s +(\S+)",
        r"membership_network +fits/s +(\S+)",
        r"seconds an audit +(\S+), 12 attacks and controls",
    ]
    for row in rows:
        assert float(re.search(row, printed)[1].replace(",", "")) > 0
    assert "decoder" not in printed


@pytest.mark.slow
def test_unknown_method():
    found = launch("bench.py", "explainers", "--methods=saliency,gradcamm")
    assert found.returncode == 2
    assert re.fullmatch(r"error: unknown method 'gradcamm': choose of gradient, .*\n", found.stderr)
