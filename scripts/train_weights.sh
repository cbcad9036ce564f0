#!/bin/sh
# Run it from the checkout, after `make install`.
# Makes what ships in robot_wm/weights: the encoder mini.safetensors (15 minutes of rendering and an hour
# of training on two cores with bfloat16), what a probe finds in it, and the checkpoint so100_tabletop
# on it (half an hour, the demonstrations included). Cut off, the same command goes on.
set -eu
PATH=$PWD/.venv/bin:$PATH
work=${1:-outputs/weights}
weights=robot_wm/weights
if [ ! -f "$work/mini.safetensors" ]; then
    # The arm plays down to the table, where it pushes and grasps.
    robot-wm pretrain data=rendered cache="$work/cache" out="$work/mini.safetensors" encoder.dim=16 \
        encoder.image_size=128 encoder.patch_size=32 \
        'data.limits.workspace_low=[0.15,-0.16,0.016,0.0]' \
        'data.limits.workspace_high=[0.33,0.16,0.19,0.08]'
fi
collect() { # NAME, and what `robot-wm collect` is told
    name=$1
    shift
    [ ! -d "$work/$name" ] || return 0
    rm -rf "$work/part"
    robot-wm collect "$@" out="$work/part"
    mv "$work/part" "$work/$name"
}
collect reaching num_episodes=250 seed=0
collect appearances env.simulator.random_appearance=true num_episodes=200 seed=40
collect picking env=so100_pick_place num_episodes=150 seed=50
# Cubes of 2.5 to 3.5 cm, so that size is not taken for place.
collect tabletop env=so100_push 'also=[so100_pick_place,so100_reach]' num_episodes=2100 seed=60 \
    'env.simulator.vary=[size]' env.simulator.vary_share=0.5
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
    probe reaching
    printf '```\n\nand while the cube is grasped, carried and let go (`collect env=so100_pick_place\n'
    printf 'num_episodes=150 seed=50`):\n\n```\n'
    probe picking
    printf '```\n\nLicence: MIT, as the code; trained from nothing on pictures that this project renders.\n'
} >"$work/card.md"
# Commands and not measured motion: a gripper that is blocked by the cube squeezes no more than it moved.
robot-wm train data="$work/tabletop" cache="$work/cache" out="$work/so100_tabletop" \
    encoder.weights="$work/mini.safetensors" data.action=command_delta model.proprio=none \
    model.num_frames=12 model.rollout_steps=8 model.held_out_horizon=10 train.num_steps=4000 \
    prior.num_steps=16000
cp "$work/mini.safetensors" "$work/mini.svg" "$weights"
cp "$work/card.md" "$weights/mini.md"
mkdir -p "$weights/so100_tabletop"
cp "$work"/so100_tabletop/* "$weights/so100_tabletop"
