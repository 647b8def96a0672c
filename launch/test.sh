#!/usr/bin/env bash
# Installs xinv and its test extra into .venv and runs the tests; arguments go to pytest.
# XINV_EXTRAS=witness compares explainers with captum, zennit and grad-cam live too, which need PyTorch (a large download).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh" "test${XINV_EXTRAS:+,$XINV_EXTRAS}"
exec .venv/bin/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile --no-loadscope-reorder --durations=25 "$@"
