#!/bin/sh
# Make the virtual environment $1 with the first fitting Python, or say what to install.
set -eu
venv=$1
fits='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'

if [ -x "$venv/bin/python" ] && "$venv/bin/python" -c "$fits" && "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    exit 0
fi
for python in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python; do
    command -v "$python" >/dev/null 2>&1 && "$python" -c "$fits" 2>/dev/null || continue
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        lacking="${lacking:-$python}"
        continue
    fi
    echo "Setting up $venv with $("$python" --version) (once; some minutes, mostly torch)" >&2
    "$python" -m venv --clear "$venv"
    exit 0
done
if [ -n "${lacking:-}" ]; then
    version=$("$lacking" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "Error: $lacking cannot make virtual environments: ensurepip is missing." >&2
    echo "On Debian and Ubuntu: apt-get install python$version-venv, then make again." >&2
else
    echo "Error: no Python 3.11, 3.12 or 3.13 found. Install one (Debian and Ubuntu: apt-get install" >&2
    echo "python3 python3-venv; macOS: brew install python@3.12), or name it: make PYTHON=/path/to/python3" >&2
fi
exit 1
