#!/usr/bin/env bash
# Finds the OpenGL backend that MuJoCo can render with here, and prints its name: `egl` or `osmesa`.
#
# Where there is none it is installed, if that needs no password; else the one line to run is
# printed and the exit code is 1. Everything but the name goes to stderr, so that
#     MUJOCO_GL=$(scripts/ensure_gl.sh [PYTHON])
# works. PYTHON is an interpreter that has mujoco, .venv/bin/python unless given.
set -euo pipefail

python=${1:-"$(dirname "${BASH_SOURCE[0]}")/../.venv/bin/python"}

say() { echo "rendering: $*" >&2; }

# Libraries that are there may still fail to give a context (no driver, no permission on the
# device), so the check is to render, each try in a process of its own: mujoco binds one backend.
renders() {
    MUJOCO_GL=$1 "$python" - <<'PY' >/dev/null 2>&1
import mujoco

model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 3'/><geom size='1' rgba='1 1 1 1'/></worldbody></mujoco>"
)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 8, 8) as renderer:
    renderer.update_scene(data)
    assert renderer.render().any(), "the picture is black"
PY
}

find_backend() {
    local backend
    for backend in ${MUJOCO_GL:-} egl osmesa; do # the user's own choice first
        if renders "$backend"; then
            echo "$backend"
            return 0
        fi
    done
    return 1
}

if backend=$(find_backend); then
    [[ -z ${MUJOCO_GL:-} || $backend == "$MUJOCO_GL" ]] ||
        say "MUJOCO_GL=$MUJOCO_GL does not work here, $backend does"
    echo "$backend"
    exit 0
fi

if ! "$python" -c "import mujoco" 2>/dev/null; then
    say "$python cannot import mujoco: run 'make install' first"
    exit 1
fi

if ! command -v apt-get >/dev/null; then
    say "MuJoCo finds neither EGL nor OSMesa: install EGL (Fedora: sudo dnf install mesa-libEGL mesa-libGL), then run this again"
    exit 1
fi

if [[ $(id -u) -eq 0 ]]; then
    as_root=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
else
    say "MuJoCo finds neither EGL nor OSMesa. Run: sudo apt-get install -y libegl1 libgl1"
    exit 1
fi

# OSMesa second: newer Debian and Ubuntu no longer have it.
apt_get() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq "$@" >&2; }
apt_get update || say "apt-get update failed, going on with the package lists that are there"
for packages in "libegl1 libgl1" "libosmesa6"; do
    say "installing $packages (about half a minute)"
    # shellcheck disable=SC2086  # one word per package
    if apt_get install -y --no-install-recommends $packages && backend=$(find_backend); then
        say "$backend works now"
        echo "$backend"
        exit 0
    fi
done
say "MuJoCo still cannot render after installing libegl1, libgl1 and libosmesa6. To see why: MUJOCO_GL=egl $python -c 'import mujoco; mujoco.GLContext(8, 8)'"
exit 1
