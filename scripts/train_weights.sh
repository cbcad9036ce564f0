#!/bin/sh
# Run it from the checkout, after `make install`.
# Makes what ships in robot_wm/weights: the encoder mini.safetensors (15 minutes of rendering, then
# an hour or more of training on two cores) and the checkpoint so100_reach on it (7 minutes). Cut
# off, the same command goes on. See the cards beside the weights.
set -eu
PATH=$PWD/.venv/bin:$PATH
work=${1:-outputs/weights}
weights=robot_wm/weights
if [ ! -f "$work/mini.safetensors" ]; then
    robot-wm pretrain data=rendered cache="$work/cache" out="$work/mini.safetensors"
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
