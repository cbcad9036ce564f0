"""A family of models from outside: recurrent and stochastic, after PlaNet (arXiv 1811.04551)."""

import torch
from torch import nn

from robot_wm.encoders import encode
from robot_wm.models import EncodedFrames, Family, ModelInfo, View, register_family
from robot_wm.types import ActionSpec, Futures


class ToyRSSM(nn.Module):
    """A GRU that remembers, a Gaussian that it draws from, and tokens read off both."""

    def __init__(self, encoder, views, names, actions, dt, step_energy=None, width=64, size=16):
        super().__init__()
        self._encoder = (encoder,)  # frozen: not a part that learns
        self.facts = {"names": list(names), "dt": dt, "step_energy": step_energy}
        self.views, self.actions, self.width, self.size = views, actions, width, size
        num = len(views) * encoder.grid[0] * encoder.grid[1] * encoder.dim
        self.cell = nn.GRUCell(size + actions.size, width)
        self.see = nn.Linear(width + num + len(names), 2 * size)
        self.guess = nn.Linear(width, 2 * size)
        self.read = nn.Sequential(nn.Linear(width + size, width), nn.ELU(), nn.Linear(width, num))
        self.register_buffer("unit", torch.tensor(actions.unit, dtype=torch.float32))

    @property
    def encoder(self):
        return self._encoder[0]

    @property
    def info(self):
        return ModelInfo(
            views=self.views, state_names=tuple(self.facts["names"]), action_spec=self.actions,
            dt=self.facts["dt"], longest_horizon=50, context_frames=2,
            grid=(len(self.views), *self.encoder.grid), dim=self.encoder.dim,
            step_energy=self.facts["step_energy"],
        )  # fmt: skip

    def initial(self):
        return None

    def observe(self, state, obs, applied):
        if isinstance(obs, EncodedFrames):
            tokens, proprio = obs.tokens.to(self.unit), obs.proprio.to(self.unit)
        else:
            tokens, proprio = self.embed(obs.images)[None], self._row(obs.proprio, "proprio")
        memory = tokens.new_zeros((len(tokens), self.width))
        if applied is not None:
            applied = applied if torch.is_tensor(applied) else self._row(applied, "applied")
            if state is not None:
                memory = self._step(state[0], state[1], applied)
        mean, _ = self.see(torch.cat((memory, tokens.flatten(1), proprio), 1)).chunk(2, 1)
        return memory, mean, tokens

    def latent(self, state):
        return state[2]

    def embed(self, images):
        missing = [view.camera for view in self.views if view.camera not in images]
        if missing:
            raise ValueError(f"camera: got {sorted(images)}, want {', '.join(missing)} too")
        pictures = (images[view.camera][None] for view in self.views)
        with torch.no_grad():
            return torch.cat([encode(self.encoder, p, self.unit.device)[0] for p in pictures])

    def rollout(self, state, actions, generator=None, *, select=None):
        memory, drawn = (part.expand(len(actions), -1) for part in state[:2])
        latents = []
        for action in actions.unbind(1):
            memory = self._step(memory, drawn, action)
            drawn = self._draw(self.guess(memory), generator)
            latents.append(self.read(torch.cat((memory, drawn), 1)))
        shape = (len(actions), len(latents), self.info.num_tokens, self.info.dim)
        return Futures(torch.stack(latents, 1).view(shape))

    def loss(self, batch, *, generator=None):
        state, errors, gaps = None, [], []
        for t in range(batch.tokens.shape[1]):
            seen = EncodedFrames(batch.tokens[:, t], batch.proprio[:, t])
            state = self.observe(state, seen, batch.actions[:, t - 1].to(self.unit) if t else None)
            posterior, prior = state[1], self.guess(state[0])
            drawn = self._draw(
                torch.cat((posterior, torch.zeros_like(posterior) - 2), 1), generator
            )
            told = self.read(torch.cat((state[0], drawn), 1))
            errors.append((told - state[2].flatten(1)).square().mean())
            gaps.append((prior.chunk(2, 1)[0] - posterior).square().mean())
        error, gap = torch.stack(errors).mean(), torch.stack(gaps[1:]).mean()
        loss = error + 0.1 * gap
        return loss, {"loss": loss.item(), "error": error.item(), "gap": gap.item()}

    def _step(self, memory, drawn, action):
        return self.cell(torch.cat((drawn, action / self.unit), 1), memory)

    def _draw(self, told, generator):
        mean, spread = told.chunk(2, 1)
        device = generator and generator.device
        noise = torch.randn(mean[:1].shape, generator=generator, device=device)  # for all the same
        return mean + spread.clamp(-5, 1).exp() * noise.to(mean)

    def _row(self, value, what):
        size = self.actions.size if what == "applied" else len(self.facts["names"])
        row = torch.as_tensor(value, dtype=torch.float32)
        if row.shape != (size,) or not row.isfinite().all():
            raise ValueError(f"{what}: got {value}, want {size} finite numbers")
        return row[None].to(self.unit)


def build(known, fit, settings):
    torch.manual_seed(known.seed)
    return ToyRSSM(
        known.encoder, known.views(), known.data.proprio_names, known.action_spec(),
        known.data.dt_s, known.step_energy(), **settings,
    )  # fmt: skip


def describe(model):
    spec = model.actions
    actions = {"names": spec.names, "units": spec.units, "low": spec.low.tolist()}
    views = [vars(view) for view in model.views]
    own = {"views": views, "actions": {**actions, "high": spec.high.tolist()}}
    return {**own, "facts": model.facts, "width": model.width, "size": model.size}


def rebuild(encoder, saved):
    views = tuple(View(**view) for view in saved["views"])
    sizes = {name: saved[name] for name in ("width", "size")}
    return ToyRSSM(
        encoder, views, actions=ActionSpec(**saved["actions"]), **saved["facts"], **sizes
    )


register_family(Family("toy_rssm", ToyRSSM, build, describe, rebuild))
