"""Checks that an Encoder keeps its interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes a second, and whoever checks an env needs none
    from robot_wm.encoders import Encoder


def check_encoder(make: Callable[[], Encoder]) -> None:
    """Checks an Encoder against what datasets, models and checkpoints expect of it.

    Args:
        make: A function that builds the encoder, the same at every call.

    Raises:
        AssertionError: the interface is broken; the message says where.
    """
    import torch

    from robot_wm.encoders import Fingerprint

    encoder, image = make(), make().image
    num_tokens = encoder.grid[0] * encoder.grid[1]
    clip = torch.randn(
        2, 3, 3, image.height, image.width, generator=torch.Generator().manual_seed(0)
    )
    before, clip_before = torch.get_rng_state(), clip.clone()
    tokens = encoder(clip)
    assert torch.equal(torch.get_rng_state(), before), "frames: torch's own randomness was used"
    assert torch.equal(clip, clip_before), "frames: they were changed"
    want = (2, 3, num_tokens, encoder.dim)
    assert tuple(tokens.shape) == want, f"tokens: got {tuple(tokens.shape)}, want {want}"
    assert tokens.dtype == torch.float32, f"tokens: got {tokens.dtype}, want torch.float32"
    assert tokens.isfinite().all(), "tokens: some are not finite"
    assert not tokens.requires_grad, "tokens: they want a gradient; an encoder is frozen"
    assert torch.equal(encoder(clip), tokens), "tokens: others of the same frames"
    near = 1e-4 * tokens.std()
    assert torch.allclose(make()(clip), tokens, atol=float(near)), "tokens: a twin's are others"
    changed = clip.clone()
    changed[:, 2] = 0
    other = encoder(changed)
    # Another batch may be summed in another order, the same batch may not.
    assert torch.allclose(other[:, :2], tokens[:, :2], atol=float(near)), (
        "tokens: a frame's depend on another frame"
    )
    assert not torch.allclose(other[:, 2], tokens[:, 2], atol=float(near)), (
        "tokens: the same of another frame"
    )
    alone = encoder(clip[1:, 1:2])[0, 0]
    assert torch.allclose(alone, tokens[1, 1], atol=float(10 * near)), (
        "tokens: a frame's depend on the batch"
    )
    for bad in (clip[0], clip[..., :-1], clip.double()):
        try:
            encoder(bad)
        except ValueError:
            continue
        raise AssertionError(f"frames: took {bad.dtype} {tuple(bad.shape)} without a ValueError")
    mark = encoder.fingerprint
    assert isinstance(mark, Fingerprint), f"fingerprint: got a {type(mark).__name__}"
    difference = mark.difference(make().fingerprint)
    assert difference is None, f"fingerprint: a twin differs in {difference}"
