from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import PointEnv, make_model
from safetensors.torch import load_file, save_file

from robot_wm import files
from robot_wm.checkpoint import (
    CheckpointError,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from robot_wm.predictor import Predictor
from robot_wm.preprocess import NormStats


@pytest.fixture
def saved(tmp_path):
    model = make_model(
        rollout_steps=3,
        rollout_prefix="random",
        error="l1",
        context_frames=3,
        features="channel_norm",
        feature_stats=NormStats(np.arange(6) / 3, np.full(6, 0.7)),
    )
    save_checkpoint(model, tmp_path / "c", training={"seed": 1}, extra={"metrics.csv": "step\n1\n"})
    return model, tmp_path / "c"


def test_what_comes_back_imagines_the_same(saved):
    model, directory = saved
    loaded, config = load_checkpoint(directory)
    observation = PointEnv().reset(3)
    actions = torch.rand(5, 3, 2) * 0.2 - 0.1
    imagined = [
        m.rollout(m.observe(None, observation, None), actions).latents for m in (model, loaded)
    ]
    torch.testing.assert_close(*imagined, atol=1e-6, rtol=1e-5)
    assert loaded.spec.action_spec.names == ("x", "y")
    assert loaded.spec.context_frames == 3 and loaded.rollout_steps == 3 and loaded.error == "l1"
    assert loaded.rollout_prefix == "random" and loaded.spec.features == "channel_norm"
    np.testing.assert_array_equal(loaded.feature_stats.mean, model.feature_stats.mean)
    assert config["training"] == {"seed": 1}
    assert (directory / "metrics.csv").read_text() == "step\n1\n"
    assert not any(p.requires_grad for p in loaded.predictor.parameters())


def test_a_checkpoint_of_the_former_format_is_the_same_model(saved):
    model, directory = saved
    config = json.loads((directory / "config.json").read_text())
    own = config.pop("model")
    (view,) = own["spec"].pop("views")
    own["spec"].pop("robot")
    own["predictor"].pop("num_views")
    sizes = {"image_height": view["height"], "image_width": view["width"]}
    own["spec"] |= {"camera": view["camera"], **sizes}
    del config["family"]
    (directory / "config.json").write_text(json.dumps({**config, **own, "format": 2}))
    weights = load_file(directory / "weights.safetensors")
    (directory / "weights.safetensors").unlink()
    plain = {name.removeprefix("predictor."): value for name, value in weights.items()}
    save_file(plain, directory / "predictor.safetensors")
    names = [p.name for p in directory.iterdir() if p.name != "manifest.json"]
    hashes = {n: hashlib.sha256((directory / n).read_bytes()).hexdigest() for n in names}
    (directory / "manifest.json").write_text(json.dumps(hashes))
    loaded, again = load_checkpoint(directory)
    assert again["family"] == "latent" and loaded.info.views == model.info.views
    actions = torch.rand(5, 3, 2) * 0.2 - 0.1
    seen = PointEnv().reset(3)
    imagined = [m.rollout(m.observe(None, seen, None), actions).latents for m in (model, loaded)]
    torch.testing.assert_close(*imagined, atol=1e-6, rtol=0)
    assert again["training"] == {"seed": 1}
    save_checkpoint(loaded, directory)  # and may be replaced


def test_a_family_that_nobody_registered_is_named(saved):
    _, directory = saved
    text = (directory / "config.json").read_text().replace('"latent"', '"dreamer"')
    (directory / "config.json").write_text(text)
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["config.json"] = hashlib.sha256(text.encode()).hexdigest()
    (directory / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="'dreamer', registered are latent.*--import"):
        load_checkpoint(directory)


@pytest.mark.parametrize(
    "name", ["config.json", "weights.safetensors", "encoder.safetensors", "manifest.json"]
)
def test_a_missing_file_is_named(saved, name):
    _, directory = saved
    (directory / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(directory)


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "encoder.safetensors"])
def test_a_single_changed_byte_is_seen(saved, name):
    _, directory = saved
    content = bytearray((directory / name).read_bytes())
    content[len(content) // 2] ^= 1
    (directory / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} was changed"):
        load_checkpoint(directory)


def test_another_encoder_is_refused(saved, tmp_path):
    _, directory = saved
    save_checkpoint(make_model(seed=9), tmp_path / "other")
    encoder = (tmp_path / "other" / "encoder.safetensors").read_bytes()
    (directory / "encoder.safetensors").write_bytes(encoder)
    manifest = json.loads((directory / "manifest.json").read_text())
    other = json.loads((tmp_path / "other" / "manifest.json").read_text())
    manifest["encoder.safetensors"] = other["encoder.safetensors"]
    (directory / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="encoder is not the one"):
        load_checkpoint(directory)


def test_nonsense_directories_are_told(tmp_path):
    with pytest.raises(CheckpointError, match="not a checkpoint directory"):
        load_checkpoint(tmp_path / "nowhere")
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        load_checkpoint(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not a JSON object"):
        load_checkpoint(tmp_path)
    (tmp_path / "vjepa2-ac-vitg.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"robot-wm convert checkpoint=\S+vitg.pt out=DIR"):
        load_checkpoint(tmp_path / "vjepa2-ac-vitg.pt")


def test_a_manifest_cannot_name_files_elsewhere(saved):
    _, directory = saved
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["../../secret"] = "0" * 64
    (directory / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError):
        load_checkpoint(directory)


def test_saving_again_replaces_and_a_failed_save_keeps_the_old_one(saved, monkeypatch):
    _, directory = saved
    before = load_checkpoint(directory)[1]["checkpoint_hash"]
    monkeypatch.setattr(
        "robot_wm.checkpoint.save_encoder", lambda *_: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(make_model(seed=4), directory)
    assert load_checkpoint(directory)[1]["checkpoint_hash"] == before
    monkeypatch.undo()
    (directory / files.LOCK).touch()  # left by a killed process
    save_checkpoint(make_model(seed=4), directory)
    assert load_checkpoint(directory)[1]["checkpoint_hash"] != before
    assert [p.name for p in directory.parent.iterdir()] == ["c"]


def test_a_folder_of_someone_elses_is_not_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="something else"):
        save_checkpoint(make_model(), tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_numbers_survive_exactly(saved):
    model, directory = saved
    loaded, _ = load_checkpoint(directory)
    assert np.array_equal(loaded.spec.action_spec.low, model.spec.action_spec.low)
    assert np.array_equal(loaded.action_stats.std, model.action_stats.std)


@pytest.mark.parametrize(
    "variant",
    [
        {"conditioning": "adaln"},
        {"residual": True},
        {"rotary": "release", "grid_size": 4},
        {"depth": 2, "mlp_ratio": 2.5},
    ],
)
def test_every_kind_of_predictor_comes_back(variant, tmp_path):
    model = make_model()
    generator = torch.Generator().manual_seed(1)
    predictor = Predictor(replace(model.predictor.config, **variant), generator=generator)
    with torch.no_grad():
        for value in predictor.parameters():  # AdaLN begins with its gates shut
            value.add_(0.05 * torch.randn(value.shape, generator=generator))
    model.predictor = predictor.eval()
    save_checkpoint(model, tmp_path / "c")
    before = torch.random.get_rng_state()
    loaded, _ = load_checkpoint(tmp_path / "c")
    assert torch.equal(torch.random.get_rng_state(), before)
    state = model.observe(None, PointEnv().reset(0), None)
    actions = torch.rand(3, 4, 2) * 0.2 - 0.1
    imagined = (m.rollout(state, actions).latents for m in (loaded, model))
    torch.testing.assert_close(*imagined, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("predictor", "mlp_ratio", "Infinity"),
        ("predictor", "depth", "1.5"),
        ("predictor", "grid", "[1]"),
        ("predictor", "residual", '"false"'),
        ("spec", "robot", "3"),
        ("spec", "state_names", "[1, 2]"),
        ("spec", "dt", "NaN"),
        ("spec", "dt", '"x"'),
        ("spec", "views", "[]"),
        ("spec", "context_frames", "1.5"),
        ("spec", "extrinsics", "[NaN]"),
        ("encoder", "name", '"os.system"'),
        ("encoder", "fingerprint", "3"),
    ],
)
def test_a_configuration_that_was_made_up_is_refused(saved, part, name, value):
    _, directory = saved
    config = json.loads((directory / "config.json").read_text())
    (config if part == "encoder" else config["model"])[part][name] = json.loads(value)
    text = json.dumps(config)
    (directory / "config.json").write_text(text)
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["config.json"] = hashlib.sha256(text.encode()).hexdigest()
    (directory / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="does not fit together"):
        load_checkpoint(directory)


@pytest.mark.parametrize(
    "value",
    [
        *("3", "[]", "null", '{"data": 3}', '{"data": {"action": []}}', '{"seed": -1}'),
        *('{"seed": "x"}', '{"seed": null}', '{"optimizer": []}', '{"train": "x"}'),
        *(f'{{"{name}": {value}}}' for name in ("model", "fit") for value in ('"x"', "[1]")),
        *('{"model": {"holdout": null}}', '{"model": {"holdout": 1}}', '{"fit": {"seed": []}}'),
    ],
)
def test_what_a_checkpoint_says_of_its_training_is_a_mapping(saved, value):
    _, directory = saved
    config = json.loads((directory / "config.json").read_text())
    text = json.dumps({**config, "training": json.loads(value)})
    (directory / "config.json").write_text(text)
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["config.json"] = hashlib.sha256(text.encode()).hexdigest()
    (directory / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="training"):
        load_checkpoint(directory)


def test_what_is_not_said_of_a_training_may_be_missing(tmp_path):
    training = {"data": None, "fit": {"holdout": 0.2, "seed": 3, "more": 1}, "source": "x"}
    save_checkpoint(make_model(), tmp_path / "c", training=training)
    assert load_checkpoint(tmp_path / "c")[1]["training"] == training


def test_a_checkpoint_has_room_for_its_encoder_too(tmp_path, monkeypatch):
    model = make_model()
    monkeypatch.setattr(type(model), "state_dict", lambda _: {})
    usage = files.shutil.disk_usage(tmp_path)
    free = files._SPARE_BYTES + 100  # enough for no weights at all
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage._replace(free=free))
    with pytest.raises(OSError, match="are free"):
        save_checkpoint(model, tmp_path / "c")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_ships_is_found_by_its_name(saved, monkeypatch, tmp_path):
    _, directory = saved
    monkeypatch.setattr("robot_wm.shipped.WEIGHTS_DIR", directory.parent)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert find_checkpoint(directory.name) == directory
    (elsewhere / directory.name).mkdir()  # a path that is there goes first
    assert find_checkpoint(directory.name) == Path(directory.name)
    with pytest.raises(CheckpointError, match=rf"no directory so100_rech, .* {directory.name}"):
        find_checkpoint("so100_rech")
