from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from robot_wm.predictor import Predictor, PredictorConfig

GOLDEN = Path(__file__).parent / "golden"


def make(**changes):
    torch.manual_seed(0)
    settings = {"token_dim": 8, "grid": (2, 3), "action_dim": 4, "state_dim": 5, "width": 48}
    settings |= {"depth": 2, "num_heads": 4, "max_frames": 5} | changes
    return Predictor(PredictorConfig(**settings)).eval()


def inputs(frames=4, batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(batch, frames, 6, 8, generator=generator)
    actions = torch.randn(batch, frames, 4, generator=generator)
    states = torch.randn(batch, frames, 5, generator=generator)
    return tokens, actions, states


@pytest.mark.parametrize("name", ["vjepa2_ac_tiny", "vjepa2_ac_head64"])
def test_reproduces_the_reference(name):
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    side = config["img_size"][0] // config["patch_size"]
    predictor = Predictor(
        PredictorConfig(
            token_dim=config["embed_dim"],
            grid=(side, side),
            action_dim=config["action_embed_dim"],
            state_dim=config["action_embed_dim"],
            max_frames=config["num_frames"] // config["tubelet_size"],
            width=config["predictor_embed_dim"],
            depth=config["depth"],
            num_heads=config["num_heads"],
            rotary="release",
        )
    )
    weights = {
        key.removeprefix("predictor."): value
        for key, value in tensors.items()
        if key.startswith("predictor.") and "extrinsics" not in key
    }
    predictor.load_state_dict(weights)
    actions, states = tensors["input.actions"], tensors["input.states"]
    tokens = tensors["input.tokens"].unflatten(1, (actions.shape[1], -1))
    with torch.inference_mode():
        out = predictor(tokens, actions, states).flatten(1, 2)
        first = predictor(tokens[:, :1], actions[:, :1], states[:, :1]).flatten(1, 2)
    torch.testing.assert_close(out, tensors["output.tokens"], atol=1e-5, rtol=0)
    torch.testing.assert_close(first, tensors["output.tokens_first_frame_only"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("rotary", ["release", "standard"])
def test_the_future_does_not_leak_into_the_past(rotary):
    predictor = make(rotary=rotary)
    tokens, actions, states = inputs()
    with torch.inference_mode():
        before = predictor(tokens, actions, states)
        for changed in range(4):
            other = [value.clone() for value in (tokens, actions, states)]
            for value in other:
                value[:, changed] += 1
            after = predictor(*other)
            assert torch.equal(after[:, :changed], before[:, :changed])
            assert not torch.allclose(after[:, changed], before[:, changed])


@pytest.mark.parametrize("which", [0, 1, 2])
def test_every_input_matters_to_its_own_frame(which):
    predictor = make()
    given = list(inputs())
    before = predictor(*given)
    given[which] = given[which].clone()
    given[which][:, 1] += 1
    assert not torch.allclose(predictor(*given)[:, 1], before[:, 1])


def test_residual_prediction_adds_to_the_frame():
    tokens, actions, states = inputs()
    direct, residual = make(residual=False), make(residual=True)
    torch.testing.assert_close(
        residual(tokens, actions, states) - tokens,
        direct(tokens, actions, states),
        atol=1e-5,
        rtol=0,
    )


def test_too_many_frames_and_wrong_sizes_are_named():
    predictor = make()
    tokens, actions, states = inputs(frames=6)
    with pytest.raises(ValueError, match="got 6, want at most 5"):
        predictor(tokens, actions, states)
    tokens, actions, states = inputs()
    with pytest.raises(ValueError, match="actions: got"):
        predictor(tokens, actions[..., :3], states)
    with pytest.raises(ValueError, match="states: got"):
        predictor(tokens, actions, states[:, :2])
    with pytest.raises(ValueError, match="tokens: got"):
        predictor(tokens[:, :, :2], actions, states)
    with pytest.raises(ValueError, match="rotary"):
        make(rotary="both")
