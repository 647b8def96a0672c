#!/usr/bin/env bash
# Checks and measures xinv on an accelerator in at most 8 minutes: see launch/bench_accelerator.py, which gets the arguments.
#
#   bash launch/accelerator.sh             prints one table; its rows also go to $OUT/accelerator.jsonl (default runs/accelerator)
#   bash launch/accelerator.sh wheels      where pip works: fetches into build/wheels what a machine with only jax, flax and
#                                          torch lacks; take that folder along, and it is used there without a network
#
# It runs in .venv where there is one, else in python3, or in $PYTHON.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
wheels=build/wheels
# Of pyproject.toml's dependencies, those that the benches import and an image for JAX and PyTorch lacks or has too old
missing='captum==0.9.0 dm-pix>=0.4.5,<0.5 filelock>=4.3,<5 ml-collections>=1.1,<2 tensorboardX>=2.6.5,<3'

python=${PYTHON:-python3}
[ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ] && python=.venv/bin/python

if [ "${1:-}" = wheels ]; then
  rm -rf "$wheels"
  # Pure Python all of them: one wheel serves every version and machine
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$wheels" $missing
  du -sh "$wheels"
  exit
fi

if [ -d "$wheels" ] && ! "$python" -c 'import captum, dm_pix, ml_collections, tensorboardX; from filelock import SoftFileLease' 2>/dev/null; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl
  export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export XLA_PYTHON_CLIENT_PREALLOCATE=false  # PyTorch needs memory beside JAX
"$python" launch/bench_accelerator.py "$@"
