"""Public weights: pinned, found on disk first, and a way out where there is no network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from robot_wm.hub_errors import hub_errors
from robot_wm.types import UserError

PLACE = "~/.cache/robot_wm/encoders"  # where files go that are fetched by hand


class EncoderWeightsError(FileNotFoundError):
    """An encoder's public weights are neither on this disk nor within reach."""


@dataclass(frozen=True)
class HubFile:
    """A file of a Hugging Face repository at a commit.

    Attributes:
        repo: owner/name.
        revision: commit, 40 hex digits.
        licence: of the weights.
        filename: within the repository.
    """

    repo: str
    revision: str
    licence: str
    filename: str = "model.safetensors"

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"https://huggingface.co/{self.repo}/resolve/{self.revision}/{self.filename}"


def fetch(name: str, file: HubFile) -> tuple[Path, bool]:
    """The file of an encoder: where a person placed it, in the hub's cache, or from the hub.

    Returns:
        The file, and whether it is certainly the hub's: a person may have placed any.

    Raises:
        EncoderWeightsError: none of these; says which file to place where.
    """
    placed = Path(PLACE).expanduser() / f"{name}.safetensors"
    if placed.is_file():
        return placed, False
    from huggingface_hub import (
        constants,
        get_session,
        hf_hub_download,
        try_to_load_from_cache,
    )

    kept = try_to_load_from_cache(file.repo, file.filename, revision=file.revision)
    if isinstance(kept, str):
        return Path(kept), True
    try:
        # One knock at the door: the download alone would try for half a minute, and say so.
        get_session().head(constants.ENDPOINT, timeout=10)
        file_path = hf_hub_download(file.repo, file.filename, revision=file.revision)
    except hub_errors() as error:
        reason = type(error).__name__
        raise EncoderWeightsError(
            f"encoder {name}: its weights are not on this disk and could not be had from the hub "
            f"({reason}); download {file.url} ({file.licence}) elsewhere and place it at {placed}, "
            f"or give encoder.weights=FILE; encoder.pretrained=false runs it untrained"
        ) from error
    return Path(file_path), True


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Raises:
        FileNotFoundError: no such file.
        UserError: not a safetensors file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"encoder weights: no file {path}")
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"encoder weights: {path} is not a safetensors file ({error})") from error
