#!/usr/bin/env bash
# Prints the first Python of the given versions that runs: find_python.sh 3.12 3.13
# Each is asked by running it: version managers put shims on the PATH for versions that do not run.
# What no name on the PATH runs, uv may know of, and pyenv keeps in folders named by version.
set -euo pipefail

is_version() { [[ $("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) == "$2" ]]; }

for version in "$@"; do
    for python in "python$version" python3 python; do
        if is_version "$python" "$version"; then command -v "$python"; exit; fi
    done
done
for version in "$@"; do
    for uv in .venv/bin/uv uv; do
        python=$("$uv" python find --no-python-downloads "$version" 2>/dev/null) || continue
        if is_version "$python" "$version"; then echo "$python"; exit; fi
    done
    for python in "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version"*/bin/python; do
        if is_version "$python" "$version"; then echo "$python"; exit; fi
    done
done
exit 1
