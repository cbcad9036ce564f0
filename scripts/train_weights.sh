#!/bin/sh
# Run it from the checkout, after `make install`.
# Makes robot_wm/weights/mini.safetensors, the encoder that ships: about 5 minutes of simulation and
# half an hour of training on two cores. See the card beside the weights.
set -eu
PATH=$PWD/.venv/bin:$PATH
work=${1:-outputs/weights}
robot-wm collect num_episodes=1500 seed=10 out="$work/data"
robot-wm pretrain data="$work/data" cache="$work/cache" out="$work/mini.safetensors" \
    encoder.dim=32 pretrain.num_steps=4500 pretrain.seed=0
cp "$work/mini.safetensors" robot_wm/weights/mini.safetensors
