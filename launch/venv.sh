# Sourced by quickstart.sh and test.sh: enters the repository and its own virtual environment with the extra $1 installed.
# Nothing is installed globally; when pyproject.toml has not changed since the last time, nothing is installed at all.
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

if ! [ -x .venv/bin/python ] || ! usable .venv/bin/python; then
  python=
  for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python3.14; do
    if usable "$candidate"; then python=$candidate; break; fi
  done
  [ -n "$python" ] || { echo "error: xinv needs Python 3.11 or newer; set PYTHON=/path/to/python" >&2; exit 2; }
  echo "Creating .venv with $("$python" --version)"
  "$python" -m venv .venv || { rm -rf .venv; echo "error: $python cannot create a virtual environment (on Debian: apt install python3-venv)" >&2; exit 2; }
fi

stamp=".venv/installed-$(printf '%s %s' "$1" "$(cat pyproject.toml)" | cksum | tr ' ' '-')"
if ! [ -e "$stamp" ]; then
  echo "Installing xinv${1:+[$1]} into .venv (the first time takes a minute or two)"
  .venv/bin/python -m pip install --disable-pip-version-check --editable ".${1:+[$1]}" ||
    { echo "error: the installation failed; the lines above say why" >&2; exit 2; }
  touch "$stamp"
fi
