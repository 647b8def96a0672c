#!/usr/bin/env bash
# Installs xinv and its test extra into .venv and runs the quick tests; arguments go to pytest.
# XINV_TESTS=all runs all tests, whole audits and trainings among them, as .ci/run does.
# XINV_EXTRAS=witness compares explainers with captum, zennit and grad-cam live too, which need PyTorch (a large download).
set -euo pipefail
case "${XINV_TESTS:-quick}" in
  quick) set -- -m "not slow" "$@" ;;
  all) ;;
  *) echo "error: XINV_TESTS is '$XINV_TESTS' but must be quick or all" >&2; exit 2 ;;
esac
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh" "test${XINV_EXTRAS:+,$XINV_EXTRAS}"
exec .venv/bin/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile --no-loadscope-reorder --durations=25 "$@"
