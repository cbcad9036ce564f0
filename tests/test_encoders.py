"""Public ViTs behind the one protocol: real architectures, a block deep, random weights."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import make_model
from safetensors.torch import load_file, save_file

from robot_wm.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from robot_wm.contracts import check_encoder
from robot_wm.encoders import (
    NAMES,
    EncoderWeightsError,
    MiniConfig,
    ViTEncoder,
    build_encoder,
    hub,
    load_encoder,
    load_mini,
    random_mini,
    save_encoder,
    save_mini,
)
from robot_wm.encoders.images import TimmBackbone, ijepa_from_transformers
from robot_wm.encoders.vjepa2 import (
    VJepa2Backbone,
    VJepa2Shape,
    from_release,
    from_transformers,
    release_shape,
)
from robot_wm.preprocess import prepare_images

# name: (picture, tokens per side, D)
PUBLIC = {
    "dinov2_vits": (224, 16, 384),
    "dinov2_vitb": (224, 16, 768),
    "dinov2_vitl": (224, 16, 1024),
    "dinov3_vits": (256, 16, 384),
    "dinov3_vitb": (256, 16, 768),
    "dinov3_vitl": (256, 16, 1024),
    "ijepa_vith": (224, 16, 1280),
    "vjepa2_vitl": (256, 16, 1024),
    "vjepa2_vith": (256, 16, 1280),
    "vjepa2_vitg": (256, 16, 1408),
}


def test_every_public_encoder_is_tested():
    assert set(NAMES) == {*PUBLIC, "mini", "mini_patches", "random", "pixels"}
    assert build_encoder("random", seed=3).fingerprint == random_mini(seed=3).fingerprint


@pytest.mark.parametrize("name", PUBLIC)
def test_token_counts_dims_and_preprocessing(name):
    size, side, dim = PUBLIC[name]
    encoder = build_encoder(name, pretrained=False, num_blocks=1)
    assert (encoder.grid, encoder.dim) == ((side, side), dim)
    assert (encoder.image.height, encoder.image.width) == (size, size)
    assert encoder.image.mean == pytest.approx((0.485, 0.456, 0.406))
    assert encoder.image.std == pytest.approx((0.229, 0.224, 0.225))
    assert encoder.image.interpolation == ("bilinear" if "vjepa" in name else "bicubic")
    check_encoder(lambda: encoder)
    frames = torch.zeros(1, 2, 3, size, size)
    with pytest.raises(ValueError, match="frames: got torch.uint8 on cpu, want torch.float32"):
        encoder(frames.to(torch.uint8))
    with pytest.raises(ValueError, match="on meta, want torch.float32 on cpu"):
        encoder(frames.to("meta"))


def test_the_video_model_sees_a_frame_as_a_clip_of_itself(tmp_path):
    from transformers import VJEPA2Config, VJEPA2Model

    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    theirs = VJEPA2Model(
        VJEPA2Config(crop_size=32, patch_size=8, **sizes, pred_hidden_size=12,
                     pred_num_attention_heads=1, pred_num_hidden_layers=1)
    ).eval()  # fmt: skip
    ours = VJepa2Backbone(VJepa2Shape(24, 2, 2, patch_size=8), 32).eval()
    theirs.save_pretrained(tmp_path)
    ours.load_state_dict(from_transformers(load_file(tmp_path / "model.safetensors")))
    frames = torch.randn(3, 3, 32, 32)
    clip = torch.stack((frames, frames), dim=1)
    with torch.no_grad():
        expected = theirs(clip, skip_predictor=True).last_hidden_state
        assert torch.equal(ours(frames), expected)


def test_the_video_model_sees_the_whole_square():
    """The hub's processor cuts 6 % off each side; without that cut, both make the same numbers."""
    from transformers import VJEPA2VideoProcessor

    rows, columns = np.mgrid[0:480, 0:480] / 480
    waves = [np.sin(5 * rows + 3 * columns), np.cos(7 * columns), np.sin(4 * rows * columns)]
    picture = (127 * (1 + np.stack(waves, axis=-1))).astype(np.uint8)
    clip = torch.from_numpy(picture).permute(2, 0, 1)[None]

    def theirs(**how):
        made = VJEPA2VideoProcessor(**how)(clip, return_tensors="pt")
        return made["pixel_values_videos"][0, 0]

    image = build_encoder("vjepa2_vitl", pretrained=False, num_blocks=1).image
    whole = prepare_images(picture, dataclasses.replace(image, height=292, width=292))
    torch.testing.assert_close(whole, theirs(do_center_crop=False), atol=0.02, rtol=0)
    torch.testing.assert_close(whole[:, 18:-18, 18:-18], theirs(), atol=0.02, rtol=0)


def release_layout(backbone):
    """A backbone's weights as Meta's files have them, by the inverse of what convert does."""
    out = {}
    for name, value in backbone.state_dict().items():
        name = name.removeprefix("encoder.").replace("embeddings.patch_embeddings", "patch_embed")
        name = name.replace("layer.", "blocks.").replace("layernorm.", "norm.")
        name = name.replace(".attention.", ".attn.")
        for part in ("query", "key", "value"):
            if f".{part}." in name:
                out.setdefault(name.replace(part, "qkv"), []).append((part, value))
                break
        else:
            out[name] = value
    order = ("query", "key", "value")
    return {
        name: torch.cat([dict(v)[p] for p in order]) if isinstance(v, list) else v
        for name, v in out.items()
    }


def test_released_encoder_files_are_read():
    torch.manual_seed(0)
    backbone = VJepa2Backbone(VJepa2Shape(24, 2, 2, mlp_ratio=3.0, patch_size=8), 32).eval()
    released = release_layout(backbone)
    assert "blocks.1.attn.qkv.weight" in released and "patch_embed.proj.weight" in released
    weights, unused = from_release({**released, "pos_embed": torch.zeros(1, 16, 24)})
    assert unused == ["pos_embed"]
    assert weights.keys() == backbone.state_dict().keys()
    for name, value in backbone.state_dict().items():
        assert torch.equal(weights[name], value), name
    assert release_shape(released, 2) == VJepa2Shape(24, 2, 2, 3.0, 8)
    with pytest.raises(ValueError, match="encoder_heads.*width 24"):
        release_shape(released, None)
    with pytest.raises(ValueError, match="want a V-JEPA 2 encoder"):
        release_shape({"weight": torch.zeros(1)}, 2)


def test_ijepa_files_of_transformers_fit_timm(tmp_path):
    from transformers import IJepaConfig, IJepaModel

    torch.manual_seed(0)
    theirs = IJepaModel(
        IJepaConfig(hidden_size=1280, num_hidden_layers=1, num_attention_heads=16,
                    intermediate_size=5120, patch_size=14, image_size=224, layer_norm_eps=1e-6)
    ).eval()  # fmt: skip
    with torch.no_grad():
        theirs.embeddings.position_embeddings.copy_(torch.randn(1, 256, 1280))
    theirs.save_pretrained(tmp_path)  # files kept the names that modules lost in transformers 5
    saved = load_file(tmp_path / "model.safetensors")
    weights = ijepa_from_transformers(saved)
    ours = TimmBackbone("vit_huge_patch14_gap_224.in1k_ijepa", 224, 1, weights).eval()
    frames = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = theirs(frames).last_hidden_state
        torch.testing.assert_close(ours(frames), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="decoder.weight is no weight of I-JEPA"):
        ijepa_from_transformers({**saved, "decoder.weight": torch.zeros(1)})


def test_pooling_averages_squares_of_tokens():
    pool = 2
    with pytest.raises(ValueError, match=r"got pool 3, want one of \[1, 2, 4\]"):
        build_encoder("mini_patches", pool=3)
    fine, coarse = build_encoder("mini_patches"), build_encoder("mini_patches", pool=pool)
    frames = torch.randn(2, 1, 3, fine.image.height, fine.image.width)
    maps = fine(frames)[:, 0].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    expected = F.avg_pool2d(maps, pool).flatten(2).transpose(1, 2)
    torch.testing.assert_close(coarse(frames)[:, 0], expected)
    assert coarse.grid == (2, 2)
    assert coarse.fingerprint.preprocessing != fine.fingerprint.preprocessing
    assert coarse.fingerprint.weights == fine.fingerprint.weights
    assert fine.fingerprint.difference(coarse.fingerprint) == (
        "preprocessing and probe vector (the tokens of a fixed picture)"
    )


def test_a_local_file_of_the_hubs_layout_is_loaded_and_its_position_table_resized(tmp_path):
    import timm

    torch.manual_seed(5)
    name = "vit_small_patch14_dinov2.lvd142m"
    public = timm.create_model(name, num_classes=0, depth=1)  # 518 pixels, as on the hub
    save_file(public.state_dict(), tmp_path / "model.safetensors")
    file = str(tmp_path / "model.safetensors")
    encoder = build_encoder("dinov2_vits", weights=file, num_blocks=1)
    again = build_encoder("dinov2_vits", weights=file, num_blocks=1, seed=9)
    assert encoder.fingerprint == again.fingerprint
    frames = torch.randn(1, 1, 3, 518, 518)
    large = build_encoder("dinov2_vits", weights=file, num_blocks=1, image_size=518)
    with torch.no_grad():
        expected = public.eval().forward_features(frames[:, 0])[:, 1:]
    torch.testing.assert_close(large(frames)[:, 0], expected, atol=1e-5, rtol=1e-5)


def test_dinov2_at_224_is_transformers_own(tmp_path):
    """The position table of 518 pixels shrunk as Meta's code and transformers' do."""
    import timm
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(5)
    public = timm.create_model("vit_small_patch14_dinov2.lvd142m", num_classes=0, depth=1)
    smooth = torch.nn.functional.interpolate(torch.randn(1, 384, 6, 6), 37, mode="bicubic")
    state = public.state_dict()
    state["pos_embed"][:, 1:] = smooth.flatten(2).transpose(1, 2)
    save_file(state, tmp_path / "model.safetensors")
    encoder = build_encoder(
        "dinov2_vits", weights=str(tmp_path / "model.safetensors"), num_blocks=1
    )

    theirs = Dinov2Model(
        Dinov2Config(
            hidden_size=384, num_hidden_layers=1, num_attention_heads=6, image_size=518,
            patch_size=14,
        )
    ).eval()  # fmt: skip
    # Of transformers 4 and of 5.
    new = "encoder.layer.0.attention.q_proj.weight" in theirs.state_dict()
    inner = [f"{x}_proj" if new else f"attention.{n}" for x, n in
             (("q", "query"), ("k", "key"), ("v", "value"))]  # fmt: skip
    outer = "o_proj" if new else "output.dense"
    names = {
        "cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm",
        "blocks.0.norm1": "encoder.layer.0.norm1", "blocks.0.norm2": "encoder.layer.0.norm2",
        "blocks.0.attn.proj": f"encoder.layer.0.attention.{outer}",
        "blocks.0.ls1.gamma": "encoder.layer.0.layer_scale1.lambda1",
        "blocks.0.ls2.gamma": "encoder.layer.0.layer_scale2.lambda1",
        "blocks.0.mlp.fc1": "encoder.layer.0.mlp.fc1",
        "blocks.0.mlp.fc2": "encoder.layer.0.mlp.fc2",
    }  # fmt: skip
    renamed = {}
    for name, value in state.items():
        stem, _, last = name.rpartition(".")
        if name in names:
            renamed[names[name]] = value
        elif stem in names:
            renamed[f"{names[stem]}.{last}"] = value
        else:
            assert stem == "blocks.0.attn.qkv", name
            for part, own in zip(inner, value.chunk(3), strict=True):
                renamed[f"encoder.layer.0.attention.{part}.{last}"] = own
    missing = theirs.load_state_dict(renamed, strict=False)
    assert set(missing.missing_keys) <= {"embeddings.mask_token"} and not missing.unexpected_keys
    frames = torch.randn(1, 1, 3, 224, 224)
    with torch.no_grad():
        expected = theirs(frames[:, 0], interpolate_pos_encoding=True).last_hidden_state[:, 1:]
    torch.testing.assert_close(encoder(frames)[:, 0], expected, atol=1e-4, rtol=1e-4)


def test_a_placed_file_is_found_and_its_absence_explained(tmp_path, monkeypatch):
    import timm

    monkeypatch.setattr(hub, "PLACE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(EncoderWeightsError) as told:
        build_encoder("dinov3_vits")
    message = str(told.value)
    assert "https://huggingface.co/timm/vit_small_patch16_dinov3.lvd1689m/resolve/" in message
    assert str(tmp_path / "dinov3_vits.safetensors") in message
    assert "DINOv3 License" in message and "pretrained=false" in message
    torch.manual_seed(5)
    public = timm.create_model("vit_small_patch16_dinov3.lvd1689m", num_classes=0)
    save_file(public.state_dict(), tmp_path / "dinov3_vits.safetensors")
    encoder = build_encoder("dinov3_vits", num_blocks=2)
    # A person may have placed any file: its weights go along with a checkpoint.
    described = save_encoder(encoder, tmp_path / "encoder.safetensors")
    assert (tmp_path / "encoder.safetensors").exists() and described["hub"] is None
    again = load_encoder(json.loads(json.dumps(described)), tmp_path / "encoder.safetensors")
    assert again.fingerprint.difference(encoder.fingerprint) is None
    assert "state_dict" not in encoder.backbone.vit.pretrained_cfg


def test_a_hub_that_does_not_answer_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "PLACE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # closed
    with pytest.raises(EncoderWeightsError, match="could not be had from the hub"):
        build_encoder("dinov3_vits")


def test_public_weights_stay_out_of_checkpoints_and_are_found_again(tmp_path, monkeypatch):
    import timm

    torch.manual_seed(5)
    public = timm.create_model("vit_small_patch16_dinov3.lvd1689m", num_classes=0)
    save_file(public.state_dict(), tmp_path / "model.safetensors")
    asked = []

    def cached(repo, filename, revision):
        asked.append((repo, filename, revision))
        return str(tmp_path / filename)

    monkeypatch.setattr(hub, "PLACE", str(tmp_path / "nothing"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    encoder = build_encoder("dinov3_vits", num_blocks=2)
    described = save_encoder(encoder, tmp_path / "encoder.safetensors")
    assert not (tmp_path / "encoder.safetensors").exists()
    described = json.loads(json.dumps(described))
    again = load_encoder(described, tmp_path / "encoder.safetensors")
    assert again.fingerprint.difference(encoder.fingerprint) is None
    pinned = "3bf4720a82ec2066db88137180ff1f83a675cef0"
    assert asked == [("timm/vit_small_patch16_dinov3.lvd1689m", "model.safetensors", pinned)] * 2
    for change in ({"revision": "main"}, {"revision": "main/../../x"}):
        with pytest.raises(ValueError, match="encoder: got"):
            load_encoder({**described, "hub": {**described["hub"], **change}}, tmp_path / "e")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"name": "clip"}, "want one of mini, "),
        ({"name": "dinov2_vits", "pretrained": False, "image_size": 225}, "patches of 14"),
        ({"name": "vjepa2_vitl", "pretrained": False, "image_size": 100}, "patches of 16"),
        ({"name": "dinov2_vits", "pretrained": False, "pool": 3}, "pool 3"),
        ({"name": "dinov2_vits", "pretrained": False, "num_blocks": 0}, "num_blocks: got 0"),
        (
            {"name": "dinov2_vits", "pretrained": False, "num_blocks": 13},
            "at most dinov2_vits's 12",
        ),
        (
            {"name": "vjepa2_vitl", "pretrained": False, "num_blocks": 25},
            "at most vjepa2_vitl's 24",
        ),
        ({"name": "vjepa2_vitl", "pretrained": False, "num_blocks": "a"}, "num_blocks: got 'a'"),
        ({"name": "dinov2_vits", "pretrained": False, "image_size": 0}, "image_size: got 0"),
        ({"name": "mini", "pool": 2}, "pool 2"),
        *(({"name": n, "pool": p}, f"pool: got {p}") for n in ("mini", "pixels") for p in (0, -3)),
        ({"name": "mini", "image_size": 0}, "image_size: got 0"),
        ({"name": "random", "pretrained": True}, "encoder random: got pretrained"),
        *(({"name": "pixels", "pretrained": p}, "encoder pixels: got") for p in (True, False)),
        ({"name": "pixels", "weights": "x"}, "encoder pixels: got pretrained, weights"),
        ({"name": "pixels", "image_size": 40}, "multiple of the patches of 16"),
        ({"name": "mini", "weights": "x", "pretrained": False}, "one or the other"),
    ],
)
def test_settings_that_do_not_fit_are_told(words, why):
    with pytest.raises(ValueError, match=why):
        build_encoder(**words)


@pytest.mark.parametrize("name", ["dinov2_vits", "dinov3_vits", "vjepa2_vitl"])
def test_files_of_something_else_are_refused(name, tmp_path):
    file = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, file)
    with pytest.raises(ValueError, match="encoder"):
        build_encoder(name, weights=file, num_blocks=1)
    file.write_bytes(b"hello")
    with pytest.raises(ValueError, match="not a safetensors file"):
        build_encoder(name, weights=file, num_blocks=1)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        build_encoder(name, weights=tmp_path / "nowhere", num_blocks=1)


def saved_with(encoder, directory):
    """A checkpoint whose predictor was made for this encoder."""
    from dataclasses import replace

    from robot_wm.models import LatentWorldModel
    from robot_wm.predictor import Predictor

    model = make_model()
    config = replace(model.predictor.config, token_dim=encoder.dim, grid=encoder.grid)
    model = LatentWorldModel(
        encoder,
        Predictor(config).eval(),
        model.spec,
        action_stats=model.action_stats,
        proprio_stats=model.proprio_stats,
    )
    save_checkpoint(model, directory)
    return model


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("mini", {}),
        ("mini_patches", {"pool": 2}),
        ("pixels", {"image_size": 32}),
        ("dinov2_vits", {"pretrained": False, "num_blocks": 1, "pool": 4, "image_size": 112}),
        ("vjepa2_vitl", {"pretrained": False, "num_blocks": 1, "image_size": 64}),
    ],
)
def test_a_checkpoint_brings_its_encoder_along(name, more, tmp_path):
    model = saved_with(build_encoder(name, seed=3, **more), tmp_path / "c")
    loaded, config = load_checkpoint(tmp_path / "c")
    assert config["encoder"]["name"] == name
    frames = torch.randn(1, 1, 3, model.encoder.image.height, model.encoder.image.width)
    assert torch.equal(loaded.encoder(frames), model.encoder(frames))
    assert loaded.encoder.grid == model.encoder.grid


@pytest.mark.parametrize("what", ["weights", "preprocessing", "probe"])
def test_a_mismatch_says_what_differs(what, tmp_path):
    import hashlib

    saved_with(build_encoder("mini_patches"), tmp_path / "c")
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    if what == "probe":  # another version of a library that computes something else
        config["encoder"]["fingerprint"]["probe"][3] += 0.5
    else:
        config["encoder"]["fingerprint"][what] = "0" * 64
    text = json.dumps(config)
    (tmp_path / "c" / "config.json").write_text(text)
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    manifest["config.json"] = hashlib.sha256(text.encode()).hexdigest()
    (tmp_path / "c" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=f"not the one .* trained on: {what}"):
        load_checkpoint(tmp_path / "c")


def test_untrained_weights_are_decided_by_the_seed_alone():
    before = torch.random.get_rng_state()
    one, two, three = (
        build_encoder("dinov2_vits", pretrained=False, num_blocks=1, seed=seed)
        for seed in (1, 1, 2)
    )
    assert one.fingerprint == two.fingerprint != three.fingerprint
    assert one.fingerprint.difference(three.fingerprint).startswith("weights and probe")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert isinstance(one, ViTEncoder) and not any(p.requires_grad for p in one.parameters())


def test_the_probe_looks_at_many_channels_and_tokens():
    encoder = build_encoder("dinov2_vits", pretrained=False, num_blocks=1)
    tokens = 256 * 384
    places = [(7919 * i) % tokens for i in range(16)]
    assert len({place // 384 for place in places}) > 12
    assert len({place % 384 for place in places}) > 12
    assert len(encoder.fingerprint.probe) == 16


@pytest.mark.parametrize("num_tokens", [0, 3])
@pytest.mark.parametrize("stem", ["linear", "conv"])
def test_every_shape_of_mini_survives_its_file(num_tokens, stem, tmp_path):
    config = MiniConfig(image_size=32, width=16, depth=1, stem=stem, num_tokens=num_tokens, dim=8)
    encoder = random_mini(seed=1, config=config)
    save_mini(encoder, tmp_path / "mini.safetensors")
    again = load_mini(tmp_path / "mini.safetensors")
    assert again.fingerprint == encoder.fingerprint and again.config == config
    frames = torch.randn(2, 2, 3, 32, 32)
    assert torch.equal(again(frames), encoder(frames))
    assert again.grid == ((1, 3) if num_tokens else (2, 2))
    assert again(frames).shape == (2, 2, num_tokens or 4, 8 if num_tokens else 16)


@pytest.mark.parametrize("stem", ["linear", "conv"])
def test_a_frame_beside_itself_is_the_same_as_beside_its_copy(stem):
    encoder = random_mini(seed=0, config=MiniConfig(image_size=32, width=16, depth=1, stem=stem))
    frames = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encoder.embed(frames, frames), encoder.embed(frames, frames.clone()))


@pytest.mark.parametrize("stem", ["linear", "conv"])
def test_a_hidden_patch_does_not_show_through_its_neighbours(stem):
    encoder = random_mini(seed=0, config=MiniConfig(image_size=32, width=16, depth=1, stem=stem))
    image = torch.randn(1, 3, 32, 32)
    other = image.clone()
    other[:, :, :16, 16:] = 9.0
    hidden = torch.tensor([[False, True, False, False]])
    assert torch.equal(encoder.embed(image, image, hidden), encoder.embed(other, other, hidden))
    changed = (encoder.embed(image, image) != encoder.embed(other, other)).any(-1)[0]
    assert changed.tolist() == [stem == "conv", True, stem == "conv", stem == "conv"]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (
            {"patch_size": 15, "stem": "linear"},
            "patch_size: got 15, want a divisor of image_size=64",
        ),
        ({"patch_size": 12, "stem": "conv"}, "want a multiple of 8 for conv"),
        ({"stem": "deep"}, "stem: got 'deep'"),
        ({"num_tokens": -1}, "num_tokens: got -1, want a whole number of at least 0"),
        ({"depth": 0}, "depth: got 0, want a whole number of at least 1"),
    ],
)
def test_shapes_that_cannot_be_are_refused(bad, said):
    with pytest.raises(ValueError, match=said):
        MiniConfig(**bad)


def test_pixels_are_the_picture_itself():
    encoder = build_encoder("pixels")
    frames = torch.randn(1, 1, 3, 48, 48)
    tokens = encoder(frames)
    assert tokens.shape == (1, 1, 9, 768)
    assert torch.equal(tokens[0, 0, 4].view(3, 16, 16), frames[0, 0, :, 16:32, 16:32])
