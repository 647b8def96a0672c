#!/usr/bin/env bash
# Installs xinv into .venv and audits the embedded digits. Safe to run again: nothing is trained twice.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh" ""
.venv/bin/python launch/run.py --config=configs/digits.py --workdir="${1:-runs/quickstart}"
