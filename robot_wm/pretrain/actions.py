"""Objective `acjepa`: predict the next embeddings under the actions, end to end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robot_wm.encoders import MiniEncoder
from robot_wm.pretrain.collapse import sigreg, vicreg
from robot_wm.pretrain.config import PretrainConfig

_LEAST_GAIN = 0.1  # of the read-out's largest: a direction with less is not one that actions move


class ActionObjective(nn.Module):
    """The throw-away predictor of a frame's embedding, and what is asked of the embeddings.

    Every frame is embedded, the next ones are predicted from the first under the actions over a
    short rollout, and a distribution regulariser keeps the embeddings from collapsing: no EMA, no
    stop-gradient (LeWM, arXiv 2603.19312).

    Args:
        encoder: its shape alone is read.
        action_dim: A.
        config: weights of the terms.
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
        """What to multiply embeddings by so that their distances are motions, `[S, S]`.

        The inverse read-out says along which directions of the embedding the actions move it, and
        how far. Those directions are replaced by the read-out itself, in which equal motions are
        equal steps, scaled to hold `motion_share` of the variance; the others stay as they are,
        those among them that an action hardly reads, because it never varies or was not learnt.
        Embeddings are taken to have unit variance, as the regulariser asks.
        """
        read_out = self.inverse.weight.T.double().cpu()  # [S, A]
        size, share = len(read_out), self._config.motion_share
        basis, gain, _ = torch.linalg.svd(read_out, full_matrices=False)
        basis, gain = basis[:, gain > _LEAST_GAIN * gain[0]], gain[gain > _LEAST_GAIN * gain[0]]
        if not 0 < len(gain) < size:  # nothing to stretch, or nothing to stretch it against
            return torch.eye(size, dtype=torch.float64)
        rest = torch.eye(size, dtype=torch.float64) - basis @ basis.T
        moved = (basis * gain) @ basis.T
        moved *= (share / (1 - share) * rest.square().sum() / moved.square().sum()).sqrt()
        metric = rest + moved
        return metric * (size / metric.square().sum()).sqrt()

    def forward(
        self, encoder: MiniEncoder, frames: Tensor, actions: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Rollout error, inverse read-out and the regulariser.

        Args:
            encoder: in training.
            frames: `[B, T, 3, height, width]`, prepared.
            actions: `[B, T - 1, A]`, scaled alike and not centred: they add up.
            generator: of SIGReg's directions, on the frames' device.

        Returns:
            The loss (scalar), its parts, and the embedding of one frame per clip, `[B, 1, S]`.
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
        # Between any two frames: the longer the way, the clearer it is.
        moved = torch.cat((torch.zeros_like(actions[:, :1]), actions.cumsum(1)), dim=1)
        i, j = torch.triu_indices(*embeddings.shape[1:2] * 2, offset=1, device=actions.device)
        change, moved = embeddings[:, j] - embeddings[:, i], moved[:, j] - moved[:, i]
        inverse = (self.inverse(change) - moved).square().mean()
        everything = embeddings.flatten(0, 1)
        if config.anti_collapse == "sigreg":
            apart = sigreg(everything, num_directions=config.num_directions, generator=generator)
        else:
            variance, covariance = vicreg(everything)
            apart = variance + config.covariance_weight * covariance
        loss = prediction + config.inverse_weight * inverse + config.anti_collapse_weight * apart
        parts = {"prediction": prediction, "inverse": inverse, config.anti_collapse: apart}
        return loss, parts, embeddings[:, :1]
