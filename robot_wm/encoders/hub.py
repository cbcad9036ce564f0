"""Finds public weights at pinned commits, on disk or on the hub; reads and writes weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from robot_wm.files import check_space
from robot_wm.hub_errors import hub_errors
from robot_wm.types import UserError

PLACE = "~/.cache/robot_wm/encoders"  # directory for files that a person downloaded


class EncoderWeightsError(FileNotFoundError):
    """An encoder's public weights are neither on this disk nor can they be downloaded."""


@dataclass(frozen=True)
class HubFile:
    """A file of a Hugging Face repository at a commit.

    Attributes:
        repo: The repository, owner/name.
        revision: The commit, 40 hex digits.
        licence: Licence of the weights.
        filename: Path within the repository.
    """

    repo: str
    revision: str
    licence: str
    filename: str = "model.safetensors"

    @property
    def url(self) -> str:
        """Address of the file."""
        return f"https://huggingface.co/{self.repo}/resolve/{self.revision}/{self.filename}"


def fetch(name: str, file: HubFile) -> tuple[Path, bool]:
    """Finds the weights of an encoder: in PLACE, in the hub's cache, or on the hub.

    Args:
        name: Name of the encoder.
        file: The file on the hub.

    Returns:
        The path of the file, and whether it surely is the hub's: a file in PLACE may be any.

    Raises:
        EncoderWeightsError: the file was not found; says which file to download, and to where.
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

    cached = try_to_load_from_cache(file.repo, file.filename, revision=file.revision)
    if isinstance(cached, str):
        return Path(cached), True
    try:
        # Check that the hub is reachable: hf_hub_download alone retries for half a minute.
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
    """Reads the tensors of a safetensors file.

    Args:
        path: The file.

    Returns:
        The tensors by name.

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


def write_weights(
    weights: Mapping[str, Tensor], path: Path, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes tensors into a safetensors file.

    Args:
        weights: The tensors by name.
        path: The file.
        metadata: Text that the file holds beside them, by name.

    Raises:
        OSError: there is no room, or the file cannot be written.
    """
    tensors = {name: value.contiguous() for name, value in weights.items()}
    content = save(tensors, None if metadata is None else dict(metadata))
    check_space(path.parent, len(content))
    path.write_bytes(content)
