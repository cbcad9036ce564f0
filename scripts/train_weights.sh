#!/bin/sh
# Run it from the checkout, after `make install`.
# Makes what ships in robot_wm/weights: the encoder mini.safetensors (15 minutes of rendering, three hours
# of training on two cores), what a probe finds in it, and the checkpoint so100_reach on it
# (7 minutes). Cut off, the same command goes on. See the cards beside the weights.
set -eu
PATH=$PWD/.venv/bin:$PATH
work=${1:-outputs/weights}
weights=robot_wm/weights
if [ ! -f "$work/mini.safetensors" ]; then
    robot-wm pretrain data=rendered cache="$work/cache" out="$work/mini.safetensors"
fi
collect() { # NAME, and what `robot-wm collect` is told
    name=$1
    shift
    [ ! -d "$work/$name" ] || return 0
    rm -rf "$work/part"
    robot-wm collect "$@" out="$work/part"
    mv "$work/part" "$work/$name"
}
collect demonstrations num_episodes=250 seed=0
collect appearances env.simulator.random_appearance=true num_episodes=200 seed=40
probe() { # DATASET: the table alone
    robot-wm probe data="$work/$1" cache="$work/cache" encoder.weights="$work/mini.safetensors" \
        2>&1 >"$work/$1.json" | sed -n '/^held-out R2/,$p'
}
{
    cat "$work/mini.md"
    printf '\nWhat `robot-wm probe` reads off its tokens on held-out episodes, every one under an\n'
    printf 'appearance of its own (`collect env.simulator.random_appearance=true num_episodes=200 seed=40`):\n\n```\n'
    probe appearances
    printf '```\n\nand in the scene'"'"'s own appearance (`collect num_episodes=250 seed=0`):\n\n```\n'
    probe demonstrations
    printf '```\n\nLicence: MIT, as the code; trained from nothing on pictures that this project renders.\n'
} >"$work/card.md"
robot-wm train data="$work/demonstrations" cache="$work/cache" out="$work/so100_reach" \
    encoder.weights="$work/mini.safetensors"
cp "$work/mini.safetensors" "$work/mini.svg" "$weights"
cp "$work/card.md" "$weights/mini.md"
mkdir -p "$weights/so100_reach"
cp "$work"/so100_reach/* "$weights/so100_reach"
