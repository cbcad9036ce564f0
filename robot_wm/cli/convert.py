"""`robot-wm convert`: a released V-JEPA 2-AC file in, a checkpoint directory out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from robot_wm.checkpoint import check_replaceable, save_checkpoint
from robot_wm.cli.console import finish, git_sha, output_dir, say
from robot_wm.cli.provenance import FILE, describe_run
from robot_wm.files import sha256_file
from robot_wm.release import ReleaseConfig, load_release


def run(config: DictConfig) -> None:
    """Converts, then says what was used and what was left out."""
    settings: Any = OmegaConf.to_container(config)
    source, out = Path(settings.pop("checkpoint")), output_dir(settings.pop("out"))
    settings["extrinsics"] = settings["extrinsics"] or ()
    check_replaceable(out, overwrite=settings.pop("overwrite"))
    model, left_out = load_release(source, ReleaseConfig(**settings))
    for line in left_out:
        say(f"left out: {line}")
    encoder, predictor = model.encoder, model.predictor
    num_weights = sum(p.numel() for p in predictor.parameters())
    say(
        f"encoder {encoder.grid[0]} x {encoder.grid[1]} tokens of {encoder.dim}; predictor "
        f"{predictor.config.width} x {predictor.config.depth}, {num_weights / 1e6:.1f} M weights, "
        f"every one of them from the file"
    )
    provenance = {
        "source": source.name,
        "sha256": sha256_file(source),
        "left_out": left_out,
        "git_sha": git_sha(),
    }
    extra = {FILE: describe_run("convert", config)}
    save_checkpoint(model, out, training=provenance, extra=extra)
    say(f"checkpoint: {out}")
    finish(
        {
            "out": str(out),
            "tokens": encoder.grid[0] * encoder.grid[1],
            "token_dim": encoder.dim,
            "predictor_width": predictor.config.width,
            "predictor_depth": predictor.config.depth,
            "num_weights": num_weights,
            "left_out": left_out,
        }
    )
