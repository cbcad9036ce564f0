"""Where what ships with the library is, and how a checkpoint's directory is found by name."""

from __future__ import annotations

import os
from pathlib import Path

WEIGHTS_DIR = Path(__file__).parent / "weights"
MANIFEST = "manifest.json"  # lists a checkpoint's files
PRIOR_FILE = "prior.safetensors"  # of a checkpoint whose training had `prior.num_steps`
# Names of checkpoints that no longer ship, and what does all that they did.
_TAKEN_OVER = {"so100_reach": "so100_tabletop"}


def shipped_checkpoints() -> list[str]:
    """Returns the names of the checkpoints that ship."""
    return sorted(path.parent.name for path in WEIGHTS_DIR.glob(f"*/{MANIFEST}"))


def checkpoint_directory(name: str) -> Path:
    """Returns where a checkpoint is, or would be.

    Args:
        name: A path, or the name of a checkpoint that ships with the library.

    Returns:
        The directory; it need not exist.
    """
    path, ships = Path(os.path.expanduser(name)), _TAKEN_OVER.get(name, name)
    return WEIGHTS_DIR / ships if not path.exists() and ships in shipped_checkpoints() else path
