#!/usr/bin/env bash
# Installs xinv and its test extra into .venv and runs the tests; arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh" test
exec .venv/bin/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile "$@"
