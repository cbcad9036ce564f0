"""Objective `acjepa`: predicts the next embeddings under the actions, end to end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robot_wm.encoders import MiniEncoder
from robot_wm.pretrain.collapse import sigreg, vicreg
from robot_wm.pretrain.config import PretrainConfig

# A direction whose gain is a smaller share of the read-out's largest is not moved by actions.
_LEAST_GAIN = 0.1


class ActionObjective(nn.Module):
    """The predictor of a frame's embedding, which is not kept, and the loss on the embeddings.

    Every frame is embedded, the next ones are predicted from the first under the actions over a
    short rollout, and a distribution regulariser keeps the embeddings from collapsing: no EMA, no
    stop-gradient (LeWM, arXiv 2603.19312).

    Args:
        encoder: The encoder, of which only the shape is used.
        action_dim: Size of an action, A.
        config: The weights of the loss terms.
    """

    def __init__(self, encoder: MiniEncoder, action_dim: int, config: PretrainConfig) -> None:
        super().__init__()
        self._config = config
        size = encoder.config.num_tokens * encoder.config.dim
        self.change = nn.Sequential(
            nn.Linear(size + action_dim, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, size),
        )
        self.inverse = nn.Linear(size, action_dim)

    @torch.no_grad()
    def metric(self) -> Tensor:
        """Returns a linear map of embeddings, `[S, S]`, after which their distances are motions.

        The inverse read-out gives the directions along which the actions move the embedding, and
        how far. These directions are replaced by the read-out itself, in which equal motions are
        equal steps, scaled to have `motion_share` of the variance. The other directions stay as
        they are; so do those with a small gain, whose action never varies or was not learned.
        Embeddings are assumed to have unit variance, which the regulariser aims at.
        """
        read_out = self.inverse.weight.T.double().cpu()  # [S, A]
        size, share = len(read_out), self._config.motion_share
        basis, gain, _ = torch.linalg.svd(read_out, full_matrices=False)
        basis, gain = basis[:, gain > _LEAST_GAIN * gain[0]], gain[gain > _LEAST_GAIN * gain[0]]
        if not 0 < len(gain) < size:  # nothing to stretch, or nothing to stretch it against
            return torch.eye(size, dtype=torch.float64)
        still = torch.eye(size, dtype=torch.float64) - basis @ basis.T
        moved = (basis * gain) @ basis.T
        moved *= (share / (1 - share) * still.square().sum() / moved.square().sum()).sqrt()
        metric = still + moved
        return metric * (size / metric.square().sum()).sqrt()

    def forward(
        self, encoder: MiniEncoder, frames: Tensor, actions: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Computes the errors of the rollout and of the inverse read-out, and the regulariser.

        Args:
            encoder: The encoder in training.
            frames: Prepared pictures `[B, T, 3, height, width]`.
            actions: Actions `[B, T - 1, A]`, scaled but not centred, so that they add up.
            generator: Draws SIGReg's directions, on the frames' device.

        Returns:
            The loss (scalar), its terms, and the embedding of one frame per clip, `[B, 1, S]`.
        """
        config = self._config
        images = frames.flatten(0, 1)
        features = encoder.transform(encoder.embed(images, images))
        embeddings = encoder.read(features).float().view(*frames.shape[:2], -1)  # [B, T, S]
        imagined, errors = embeddings[:, 0], []
        for t in range(actions.shape[1]):
            imagined = imagined + self.change(torch.cat((imagined, actions[:, t]), dim=-1))
            errors.append((imagined - embeddings[:, t + 1]).square().mean())
        prediction = torch.stack(errors).mean()
        # Between any two frames, not only neighbours: longer motions are easier to read.
        moved = torch.cat((torch.zeros_like(actions[:, :1]), actions.cumsum(1)), dim=1)
        i, j = torch.triu_indices(*embeddings.shape[1:2] * 2, offset=1, device=actions.device)
        change, moved = embeddings[:, j] - embeddings[:, i], moved[:, j] - moved[:, i]
        inverse = (self.inverse(change) - moved).square().mean()
        samples = embeddings.flatten(0, 1)
        if config.anti_collapse == "sigreg":
            penalty = sigreg(samples, num_directions=config.num_directions, generator=generator)
        else:
            variance, covariance = vicreg(samples)
            penalty = variance + config.covariance_weight * covariance
        loss = prediction + config.inverse_weight * inverse + config.anti_collapse_weight * penalty
        parts = {"prediction": prediction, "inverse": inverse, config.anti_collapse: penalty}
        return loss, parts, embeddings[:, :1]
