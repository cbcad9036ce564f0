#!/bin/sh
# Run it from the checkout, after `make install`.
# Makes what ships in robot_wm/weights: the encoder mini.safetensors (10 minutes of rendering, then
# about an hour of training on two cores) and the checkpoint so100_reach on it (7 minutes). Cut off,
# the same command goes on. See the cards beside the weights.
set -eu
PATH=$PWD/.venv/bin:$PATH
work=${1:-outputs/weights}
weights=robot_wm/weights
if [ ! -f "$work/mini.safetensors" ]; then
    robot-wm pretrain data=rendered cache="$work/cache" out="$work/mini.safetensors" \
        pretrain.num_steps=6000 pretrain.time_limit_s=4200.0
fi
if [ ! -d "$work/demonstrations" ]; then
    rm -rf "$work/part"
    robot-wm collect num_episodes=250 seed=0 out="$work/part"
    mv "$work/part" "$work/demonstrations"
fi
robot-wm train data="$work/demonstrations" cache="$work/cache" out="$work/so100_reach" \
    encoder.weights="$work/mini.safetensors"
cp "$work/mini.safetensors" "$work/mini.svg" "$work/mini.md" "$weights"
mkdir -p "$weights/so100_reach"
cp "$work"/so100_reach/* "$weights/so100_reach"
