"""Converts a released V-JEPA 2-AC file to a checkpoint directory."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robot_wm.checkpoint import check_replaceable, save_checkpoint
from robot_wm.files import output_dir, sha256_file
from robot_wm.provenance import FILE, describe_run, git_sha
from robot_wm.release import ReleaseConfig, load_release

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ConvertSettings(ReleaseConfig):
    """Which file is converted, where the checkpoint is written, and facts that the file lacks.

    Attributes:
        checkpoint: The released file, such as vjepa2-ac-vitg.pt.
        out: Directory of the checkpoint.
        overwrite: Replaces a checkpoint that is in `out` already.
    """

    checkpoint: str
    out: str
    overwrite: bool = False


def convert(settings: ConvertSettings) -> dict[str, Any]:
    """Converts a file, and logs which of its weights are left out.

    Args:
        settings: The file and the checkpoint.

    Returns:
        Sizes of the model, in plain values.

    Raises:
        UserError: the file is not such a release, or the settings do not fit it.
        FileExistsError: what is in `out` may not be replaced.
    """
    source, out = Path(settings.checkpoint), output_dir(settings.out, replaced=True)
    check_replaceable(out, overwrite=settings.overwrite)
    names = [field.name for field in dataclasses.fields(ReleaseConfig)]
    config = ReleaseConfig(**{name: getattr(settings, name) for name in names})
    model, left_out = load_release(source, config)
    for line in left_out:
        log.info(f"left out: {line}")
    encoder, predictor = model.encoder, model.predictor
    num_weights = sum(p.numel() for p in predictor.parameters())
    log.info(
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
    extra = {FILE: describe_run("convert", settings)}
    save_checkpoint(model, out, training=provenance, extra=extra)
    log.info(f"checkpoint: {out}")
    return {
        "out": str(out),
        "tokens": encoder.grid[0] * encoder.grid[1],
        "token_dim": encoder.dim,
        "predictor_width": predictor.config.width,
        "predictor_depth": predictor.config.depth,
        "num_weights": num_weights,
        "left_out": left_out,
    }
