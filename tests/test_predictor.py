from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from robot_wm import layers
from robot_wm.predictor import Predictor, PredictorConfig, rollout_recomputed

GOLDEN = Path(__file__).parent / "golden"


def make(**changes):
    torch.manual_seed(0)
    settings = {"token_dim": 8, "grid": (2, 3), "action_dim": 4, "state_dim": 5, "width": 48}
    settings |= {"depth": 2, "num_heads": 4, "max_frames": 5}
    settings |= {"conditioning": "tokens", "residual": False} | changes
    return Predictor(PredictorConfig(**settings)).eval()


def inputs(frames=4, batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(batch, frames, 6, 8, generator=generator)
    actions = torch.randn(batch, frames, 4, generator=generator)
    states = torch.randn(batch, frames, 5, generator=generator)
    return tokens, actions, states


@pytest.mark.parametrize("name", ["tiny", "tiny_extrinsics", "head64"])
def test_reproduces_the_reference(name):
    with safe_open(GOLDEN / f"vjepa2_ac_{name}.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    side = config["img_size"][0] // config["patch_size"]
    sees_camera = config.get("use_extrinsics", False)
    predictor = Predictor(
        PredictorConfig(
            token_dim=config["embed_dim"],
            grid=(side, side),
            action_dim=config["action_embed_dim"],
            state_dim=config["action_embed_dim"],
            extrinsics_dim=6 if sees_camera else 0,
            max_frames=config["num_frames"] // config["tubelet_size"],
            width=config["predictor_embed_dim"],
            depth=config["depth"],
            num_heads=config["num_heads"],
            rotary="release",
            conditioning="tokens",
            residual=False,
        )
    )
    weights = {
        key.removeprefix("predictor."): value
        for key, value in tensors.items()
        if key.startswith("predictor.") and (sees_camera or "extrinsics" not in key)
    }
    predictor.load_state_dict(weights)
    given = [tensors["input.actions"], tensors["input.states"]]
    if sees_camera:
        given.append(tensors["input.extrinsics"])
    frames = given[0].shape[1]
    tokens = tensors["input.tokens"].unflatten(1, (frames, -1))
    with torch.inference_mode():
        out = predictor(tokens, *given).flatten(1, 2)
        first, cache = predictor.extend(None, tokens[:, :1], *(g[:, :1] for g in given))
        outs = [first]
        for t in range(1, frames):  # the same numbers, one frame at a time
            now = slice(t, t + 1)
            one, cache = predictor.extend(cache, tokens[:, now], *(g[:, now] for g in given))
            outs.append(one)
    torch.testing.assert_close(out, tensors["output.tokens"], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        first.flatten(1, 2), tensors["output.tokens_first_frame_only"], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        torch.cat(outs, dim=1).flatten(1, 2), tensors["output.tokens"], atol=1e-5, rtol=0
    )


VARIANTS = [
    {},
    {"rotary": "release"},
    {"conditioning": "adaln"},
    {"residual": True, "output_norm": True},
    {"conditioning": "adaln", "state_dim": 0},
]


def shaken(**changes):
    """A predictor whose gates are open: AdaLN starts with them shut."""
    predictor = make(**changes)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in predictor.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return predictor


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("context", [1, 2, 3, 4])
def test_a_cached_rollout_equals_the_recomputed_one(variant, context):
    predictor = shaken(max_frames=12, **variant)
    generator = torch.Generator().manual_seed(2)
    num, longest = 3, 8
    tokens = torch.randn(1, context, 6, 8, generator=generator)
    # The actions and states within the context are the past: the same for all candidates.
    past_a = torch.randn(1, context - 1, 4, generator=generator)
    past_s = torch.randn(1, context - 1, 5, generator=generator)
    actions = torch.randn(num, longest, 4, generator=generator)
    states = torch.randn(num, longest, 5, generator=generator)
    states[:, 0] = states[0, 0]
    sees_state = predictor.config.state_dim > 0
    with torch.inference_mode():
        for horizon in range(1, longest + 1):
            cache = None
            if context > 1:
                past = (past_a, past_s) if sees_state else (past_a,)
                _, cache = predictor.extend(None, tokens[:, :-1], *past)
            cached, _ = predictor.rollout(
                cache,
                tokens[:, -1],
                actions[:, :horizon],
                states[:, :horizon] if sees_state else None,
            )
            recomputed = rollout_recomputed(
                predictor,
                tokens.expand(num, -1, -1, -1),
                torch.cat((past_a.expand(num, -1, -1), actions[:, :horizon]), dim=1),
                torch.cat((past_s.expand(num, -1, -1), states[:, :horizon]), dim=1)
                if sees_state
                else None,
            )
            assert recomputed.std() > 0.1
            torch.testing.assert_close(cached, recomputed, atol=1e-5, rtol=0)


def test_the_context_is_kept_once_and_the_horizon_costs_linear_memory():
    predictor = make(max_frames=12)
    tokens, actions, states = inputs(frames=4, batch=1)
    _, context = predictor.extend(None, tokens[:, :3], actions[:, :3], states[:, :3])
    many = [value[:, 3:].expand(7, *value[:, 3:].shape[1:]) for value in (tokens, actions, states)]
    cache, sizes = context, [context.num_bytes]
    for _ in range(8):
        _, cache = predictor.extend(cache, *many)
        sizes.append(cache.num_bytes)
    grown = {after - before for before, after in zip(sizes, sizes[1:], strict=False)}
    assert grown == {7 * sizes[0] // 3}  # seven candidates, one frame each, every time
    for parts, before in zip(cache.blocks, context.blocks, strict=True):
        assert parts[0][0] is before[0][0] and parts[0][1] is before[0][1]


def test_a_cache_cut_short_is_the_cache_of_the_shorter_sequence():
    predictor = make()
    given = inputs(frames=4)
    _, cache = predictor.extend(None, *given)
    now = [value[:, 2:3] for value in given]
    out, _ = predictor.extend(cache.first(2), *now)
    torch.testing.assert_close(
        out, predictor(*(value[:, :3] for value in given))[:, 2:], atol=1e-5, rtol=0
    )


def test_a_wide_grid_is_squeezed_into_its_number_of_rows():
    """Columns of a 2 x 4 map at 0, .5, 1, 1.5: columns 0 and 2 stand where a 2 x 2 map's stand."""
    wide, square = make(grid=(2, 4)), make(grid=(2, 2))
    rows = [0, 1, 2, 4, 6, 8]  # conditions, then columns 0 and 2 of both rows
    assert torch.equal(wide._cos[:10][rows], square._cos[:6])
    scaled = make(grid=(2, 2), grid_size=4)
    assert torch.equal(scaled._cos[2:6], make(grid=(4, 4))._cos[2:18][[0, 2, 8, 10]])


@pytest.mark.parametrize(
    "variant", [{}, {"rotary": "release"}, {"conditioning": "adaln"}, {"output_norm": True}]
)
def test_the_future_does_not_leak_into_the_past(variant):
    predictor = shaken(**variant)
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


@pytest.mark.parametrize("conditioning", ["tokens", "adaln"])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_every_input_matters_to_its_own_frame(which, conditioning):
    predictor = shaken(conditioning=conditioning)
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
    with pytest.raises(ValueError, match="got 6, want 1 to 5"):
        predictor(tokens, actions, states)
    tokens, actions, states = inputs()
    with pytest.raises(ValueError, match="actions: got"):
        predictor(tokens, actions[..., :3], states)
    with pytest.raises(ValueError, match="states: got"):
        predictor(tokens, actions, states[:, :2])
    with pytest.raises(ValueError, match="tokens: got"):
        predictor(tokens[:, :, :2], actions, states)
    with pytest.raises(ValueError, match="states: got none"):
        predictor(tokens, actions)
    with pytest.raises(ValueError, match="extrinsics: got .*want none"):
        predictor(tokens, actions, states, states)
    with pytest.raises(ValueError, match="tokens: got torch.float64 .*want torch.float32"):
        predictor(tokens.double(), actions, states)
    with pytest.raises(ValueError, match="actions: got .* on meta, want .* on cpu"):
        predictor(tokens, actions.to("meta"), states)
    _, cache = predictor.extend(None, tokens, actions, states)
    with pytest.raises(ValueError, match="got 8, want 1 to 5"):
        predictor.extend(cache, tokens, actions, states)
    for bad in ({"rotary": "both"}, {"conditioning": "film"}, {"grid_size": 0}, {"state_dim": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            make(**bad)


def test_views_are_told_apart_and_one_view_is_as_before():
    one, two = (
        shaken(max_frames=3, num_views=views, grid=(2, 3), conditioning="adaln") for views in (1, 2)
    )
    assert two.config.num_tokens == 12
    torch.testing.assert_close(two._cos[:6], one._cos[:6], atol=0, rtol=0)
    frame = two._cos[:12]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(frame, 2))


def test_plain_products_descend_as_torchs_fused_attention_does(monkeypatch):
    model = make()

    def gradients():
        return torch.autograd.grad(model(*inputs()).pow(2).sum(), list(model.parameters()))

    plain = gradients()
    monkeypatch.setattr(layers, "_SHORT", 0)
    for ours, fused in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(ours, fused, atol=1e-5, rtol=1e-4)
