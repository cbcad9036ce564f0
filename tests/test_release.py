from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from scipy.spatial.transform import Rotation
from test_encoders import release_layout

from robot_wm.checkpoint import load_checkpoint
from robot_wm.cli import main
from robot_wm.encoders.vjepa2 import VJepa2Backbone, VJepa2Shape
from robot_wm.release import ReleaseConfig, load_release
from robot_wm.types import Observation

GOLDEN = Path(__file__).parent / "golden"
SMALL = ["image_size=64", "num_heads=4", "encoder_heads=2", "max_frames=8"]


def golden(name="tiny"):
    with safe_open(GOLDEN / f"vjepa2_ac_{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}


@pytest.fixture
def content():
    """What a released file holds, with the golden predictor and a small encoder of its width."""
    torch.manual_seed(0)
    encoder = release_layout(VJepa2Backbone(VJepa2Shape(48, 2, 2), 64))
    predictor = {k: v for k, v in golden().items() if k.startswith("predictor.")}
    return {
        "encoder": {f"module.backbone.{k}": v for k, v in encoder.items()},
        "predictor": {f"module.{k.removeprefix('predictor.')}": v for k, v in predictor.items()},
        "target_encoder": {f"module.backbone.{k}": v for k, v in encoder.items()},
        "opt": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4}]},
        "scaler": None,
        "epoch": 315,
        "loss": 0.4,
    }


def write(content, tmp_path, **changes):
    path = tmp_path / "release.pt"
    torch.save({**content, **changes}, path)
    return path


def convert(path, out, *words, capsys):
    code = main(["convert", f"checkpoint={path}", f"out={out}", *SMALL, *words])
    captured = capsys.readouterr()
    return code, captured.err + captured.out


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone."])
def test_a_converted_file_gives_the_reference_numbers(content, prefix, tmp_path, capsys):
    predictor = {f"{prefix}{k.removeprefix('module.')}": v for k, v in content["predictor"].items()}
    path = write(content, tmp_path, predictor=predictor)
    code, said = convert(path, tmp_path / "c", capsys=capsys)
    assert code == 0, said
    result = json.loads(said.strip().splitlines()[-1])
    assert result["tokens"] == 16 and result["predictor_width"] == 96
    # Every key is used or named.
    names = ["target_encoder", "opt", "scaler", "epoch", "loss"]
    names += ["predictor.extrinsics_encoder.weight", "predictor.extrinsics_encoder.bias"]
    assert len(result["left_out"]) == len(names)
    assert all(any(line.startswith(name) for line in result["left_out"]) for name in names)
    model, _ = load_checkpoint(tmp_path / "c")
    assert not model.encoder.image.antialias  # the pixels that it was trained on
    tensors = golden()
    tokens = tensors["input.tokens"].unflatten(1, (4, -1))
    actions, states = tensors["input.actions"], tensors["input.states"]
    with torch.inference_mode():
        out = model.predictor(tokens, actions, states).flatten(1, 2)
    expected = torch.nn.functional.layer_norm(tensors["output.tokens"], (48,))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


def test_extrinsics_are_used_where_they_are_given(content, tmp_path, capsys):
    weights = golden("tiny_extrinsics")
    weights = {k.removeprefix("predictor."): v for k, v in weights.items() if "predictor." in k}
    path = write(content, tmp_path, predictor=weights)
    code, said = convert(
        path, tmp_path / "c", "extrinsics=[0.1,0.2,0.3,0,0,1.5]", "image_height=64",
        "image_width=64", capsys=capsys,
    )  # fmt: skip
    assert code == 0, said
    model, _ = load_checkpoint(tmp_path / "c")
    assert model.predictor.config.num_conditions == 3
    assert model.spec.extrinsics == (0.1, 0.2, 0.3, 0.0, 0.0, 1.5)
    picture = np.zeros((64, 64, 3), np.uint8)
    state = model.observe(None, Observation({"front": picture}, np.zeros(7), 0.0), None)
    assert model.rollout(state, torch.zeros(3, 2, 7)).latents.shape == (3, 2, 16, 48)


def test_it_plans_end_effector_poses(content, tmp_path):
    """A rollout equals step by step prediction with poses that scipy integrates."""
    config = ReleaseConfig(
        image_size=64, num_heads=4, encoder_heads=2, image_height=64, image_width=64
    )
    model, _ = load_release(write(content, tmp_path), config)
    assert model.spec.action_spec.size == 7 and model.spec.proprio == "pose"
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    pose = np.array([0.4, 0.1, 0.3, 3.0, -0.4, 1.0, 0.5])
    actions = rng.uniform(model.spec.action_spec.low, model.spec.action_spec.high, (2, 3, 7))
    state = model.observe(None, Observation({"front": picture}, pose, 0.0), None)
    imagined = model.rollout(state, torch.tensor(actions, dtype=torch.float32)).latents
    for n in range(2):
        states, now = [pose], pose
        for action in actions[n, :2]:
            turned = Rotation.from_euler("xyz", action[3:6]) * Rotation.from_euler("xyz", now[3:6])
            now = np.concatenate(
                (now[:3] + action[:3], turned.as_euler("xyz"), np.clip(now[6:] + action[6:], 0, 1))
            )
            states.append(now)
        tokens = state.latents
        moves = torch.tensor(actions[n : n + 1], dtype=torch.float32)
        path = torch.tensor(np.array(states)[None], dtype=torch.float32)
        for t in range(1, 4):
            new = model.predictor(tokens, moves[:, :t], path[:, :t])[:, -1:]
            tokens = torch.cat((tokens, new), dim=1)
        torch.testing.assert_close(imagined[n : n + 1], tokens[:, 1:], atol=1e-4, rtol=0)


class Hostile:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_what_is_no_released_file_is_refused_in_one_line(content, tmp_path, capsys):
    predictor, encoder = content["predictor"], content["encoder"]
    nan = {**predictor, "module.predictor_norm.bias": torch.full((96,), torch.nan)}
    twice = {**predictor, "predictor_norm.bias": torch.zeros(96)}
    lacking = {k: v for k, v in predictor.items() if "blocks.1.mlp.fc1" not in k}
    short_qkv = {"module.backbone.blocks.0.attn.qkv.weight": torch.zeros(2, 48)}
    flat_mlp = {"module.backbone.blocks.0.mlp.fc1.weight": torch.tensor(1.0)}
    cases = [
        ({"predictor": {**predictor, "module.extra.weight": torch.zeros(2)}}, "unknown extra.wei"),
        ({"predictor": lacking}, "lacks predictor_blocks.1.mlp.fc1.bias"),
        ({"predictor": nan}, "predictor_norm.bias: holds numbers that are not finite"),
        ({"predictor": twice}, "there twice"),
        ({"predictor": {**predictor, "module.predictor_norm.bias": torch.zeros(3)}}, "misshapen"),
        ({"predictor": {"a": 3}}, "predictor.a: got int"),
        ({"predictor": {"a": torch.zeros(1).expand(10**12)}}, "want a dense tensor"),
        ({"predictor": {"a": torch.eye(3).to_sparse()}}, "want a dense tensor"),
        ({"predictor": {"a": torch.zeros(0)}}, "want a dense tensor"),
        ({"encoder": {**encoder, **short_qkv}}, "want 3 equal parts"),
        ({"encoder": {**encoder, **flat_mlp}}, "want a V-JEPA 2 encoder"),
        ({"predictor": []}, "want weights by name"),
        ({"encoder": {**encoder, "module.blocks.9.odd.weight": torch.zeros(2)}}, "not those of"),
        ({"encoder": {"weight": torch.zeros(2)}}, "want a V-JEPA 2 encoder"),
        ({"encoder": {**encoder, "opt": torch.zeros(2, dtype=torch.int64)}}, "encoder.opt: got"),
    ]
    for changes, why in cases:
        code, said = convert(write(content, tmp_path, **changes), tmp_path / "out", capsys=capsys)
        assert code == 2 and why in said and len(said.strip().splitlines()) == 1, (why, said)
        assert not (tmp_path / "out").exists()
    torch.save({"encoder": encoder}, tmp_path / "half.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "noise.pt").write_bytes(b"\x80\x02 nonsense")
    (tmp_path / "empty.pt").write_bytes(b"")
    whole = write(content, tmp_path).read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        (tmp_path / f"cut{share}.pt").write_bytes(whole[: int(share * len(whole))])
    (tmp_path / "hostile.pt").write_bytes(pickle.dumps({"encoder": Hostile()}))
    torch.save({"encoder": Hostile()}, tmp_path / "hostile2.pt")
    for name, why in [
        ("half", "has no predictor"),
        ("list", "holds a list"),
        ("noise", "not a released"),
        ("empty", "not a released"),
        ("hostile", "never loaded"),
        ("hostile2", "never loaded"),
        ("nowhere", "no file"),
        *((f"cut{share}", "half-downloaded") for share in (0.1, 0.5, 0.9, 0.999)),
    ]:
        code, said = convert(tmp_path / f"{name}.pt", tmp_path / "out", capsys=capsys)
        assert code == 2 and why in said and len(said.strip().splitlines()) == 1, (name, said)
        assert "this must never run" not in said
    # What weights do not tell must be given.
    path = write(content, tmp_path)
    for word, why in [
        ("num_heads=null", "num_heads: must be given"),
        ("encoder_heads=null", "encoder_heads: must be given"),
        ("image_size=100", "patches of 16"),
        ("num_heads=5", "want a multiple of num_heads=5"),
        ("dt_s=0", "above 0"),
        ("max_frames=0", "max_frames: got 0"),
        ("encoder_heads=0", "encoder_heads: got 0"),
        ("num_heads=abc", "num_heads: got 'abc'"),
        ("extrinsics=5", "extrinsics: got 5"),
        ("extrinsics=[a,b]", "got 'a', want a number"),
        ("context_frames=17", "context_frames: got 17"),
        ("image_height=0", "image_height: got 0"),
    ]:
        code, said = convert(path, tmp_path / "out", word, capsys=capsys)
        assert code == 2 and why in said, (word, said)


def test_a_half_written_directory_is_never_replaced(content, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    code, said = convert(write(content, tmp_path), tmp_path / "out", capsys=capsys)
    assert code == 2 and "something else" in said
