"""The house rules that a machine can check: format, lint, the arrows between packages, what configs
may import.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command", [["ruff", "format", "--check", "."], ["ruff", "check", "."], ["lint-imports"]]
)
def test_the_tree_is_clean(command):
    result = subprocess.run(
        [SCRIPTS / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("config", sorted(path.stem for path in (ROOT / "configs").glob("*.py")))
def test_configs_import_no_jax(config):
    """A config that is read on a login node must not wake an accelerator, and one without a default
    is no config.
    """
    code = f"""
import sys, importlib
module = importlib.import_module("configs.{config}")
if hasattr(module, "get_config"):
    assert None not in [module.get_config(""), module.__doc__]
assert "jax" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_published_settings_fit_the_launchers():
    """Every section that the pipeline reads is there, so nothing falls back on a default that the
    log does not show.
    """
    code = """
from configs import digits, faces, gnime, mnist, thielen, yang, zhao
for module in (digits, faces, gnime, mnist, thielen, yang, zhao):
    config = module.get_config("")
    assert set(config) == set(digits.get_config("")), module
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
