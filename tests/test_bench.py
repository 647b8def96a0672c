"""`launch/bench.py explainers` runs, and says what it does not know."""

import re
import subprocess
import sys
from pathlib import Path

LAUNCH = Path(__file__).parents[1] / "launch"


def test_a_row_per_method(monkeypatch, capsys):
    monkeypatch.syspath_prepend(LAUNCH)
    import bench_explainers

    monkeypatch.setattr(bench_explainers, "_captum", lambda: None)
    bench_explainers.run(1, 1, ["gradcam", "lime"], ["cnn"])
    printed = capsys.readouterr().out
    assert "xinv alone" in printed
    for name in ("gradcam", "lime"):
        rate, share = re.search(rf"^  {name} +(\S+) +(\d+)%", printed, re.MULTILINE).groups()
        assert min(float(rate), int(share)) > 0


def test_unknown_method():
    command = [sys.executable, str(LAUNCH / "bench.py"), "explainers", "--methods=saliency,gradcamm"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == 2
    assert re.fullmatch(r"error: unknown method 'gradcamm': choose of saliency, .*\n", found.stderr)
