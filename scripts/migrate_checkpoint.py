"""Writes a checkpoint of an older format again in today's, and says of which arm it is.

    python scripts/migrate_checkpoint.py DIR so100

Weights stay what they are, bit for bit. DIR is replaced by what it becomes.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from robot_wm.checkpoint import load_checkpoint, save_checkpoint
from robot_wm.models import LatentWorldModel


def main() -> None:
    """Migrates one checkpoint."""
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    directory, robot = Path(sys.argv[1]), sys.argv[2]
    model, saved = load_checkpoint(directory)
    assert isinstance(model, LatentWorldModel), "older formats know this family alone"
    model.spec = replace(model.spec, robot=robot)
    ours = ("config.json", "manifest.json")
    extra = {
        path.name: path.read_bytes()
        for path in directory.iterdir()
        if path.name not in ours
        and path.name not in ("weights.safetensors", "predictor.safetensors", "encoder.safetensors")
    }
    save_checkpoint(model, directory, training=saved["training"], extra=extra)


if __name__ == "__main__":
    main()
