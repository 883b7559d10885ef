"""How much of a latent is picture and how much is noise at every step, whatever the scheduler.

Every diffusion or flow model sees ``x = signal * x0 + noise * e``: a clean latent x0 and standard normal noise e. Flow
matching has signal = 1 - sigma and noise = sigma; models that preserve variance have signal^2 + noise^2 = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ..rewards.errors import RewardDanceError

if TYPE_CHECKING:
    from torch import Tensor

_RANDOM: Final = ("Ancestral", "SDE", "LCM", "TCD", "Cosine")
"""Schedulers of these names put fresh noise into every step, so that its two ends do not have their noise in common."""


class SamplingError(RewardDanceError):
    """A pipeline or a scheduler that cannot be steered."""


@dataclass(frozen=True)
class Levels:
    """Signal and noise before every step and after the last one, both [steps + 1]."""

    signal: tuple[float, ...]
    noise: tuple[float, ...]

    def mixed(self, step: int, clean: Tensor, noise: Tensor) -> Tensor:
        """The latents before a step whose clean latent and whose noise, of unit variance, are these."""
        return self.signal[step] * clean + self.noise[step] * noise

    def split(self, step: int, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """The clean latent x0 and the noise e that a step's two ends have in common.

        A deterministic step of first order (Euler, DDIM) keeps both, so they follow from the latents alone: two linear
        equations. Solvers that look further back bend the way a little, and x0 is then off by as much.

        Args:
            step: counted from 0.
            before, after: latents of any shape at the two ends of the step.

        Returns:
            x0 and e, of the latents' shape and dtype, computed in float32.
        """
        a, b = self.signal[step], self.noise[step]
        c, d = self.signal[step + 1], self.noise[step + 1]
        determinant = a * d - b * c
        if abs(determinant) < 1e-9:
            raise SamplingError(f"step {step} leaves the noise as it is, so nothing can be predicted from it")
        x, y = before.float(), after.float()
        clean, noise = (d * x - b * y) / determinant, (a * y - c * x) / determinant
        return clean.to(after.dtype), noise.to(after.dtype)


def levels_of(scheduler: Any) -> Levels:
    """The levels of a scheduler of diffusers whose timesteps are set.

    Raises:
        SamplingError: it keeps no noise levels that are known here, adds fresh noise at every step, or takes two steps
            where it says one.
    """
    _check_kind(scheduler)
    config, sigmas = scheduler.config, getattr(scheduler, "sigmas", None)
    if sigmas is not None:
        values = [float(sigma) for sigma in sigmas]
        flow = "FlowMatch" in type(scheduler).__name__ or config.get("use_flow_sigmas", False)
        if flow or config.get("prediction_type") == "flow_prediction":
            return Levels(tuple(1.0 - value for value in values), tuple(values))
        if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
            # DPM-Solver and its kin keep sigma / alpha, and latents that preserve variance.
            signal = [(value**2 + 1.0) ** -0.5 for value in values]
            return Levels(tuple(signal), tuple(value * s for value, s in zip(values, signal, strict=True)))
        return Levels((1.0,) * len(values), tuple(values))
    if hasattr(scheduler, "alphas_cumprod") and hasattr(scheduler, "final_alpha_cumprod"):
        left = [float(scheduler.alphas_cumprod[int(step)]) for step in scheduler.timesteps]
        left.append(float(scheduler.final_alpha_cumprod))
        return Levels(tuple(value**0.5 for value in left), tuple((1.0 - value) ** 0.5 for value in left))
    raise SamplingError(
        f"{type(scheduler).__name__} keeps no noise levels from which a clean picture can be predicted; "
        "use a flow-matching, Euler, DDIM or DPM-Solver scheduler"
    )


def _check_kind(scheduler: Any) -> None:
    name, config = type(scheduler).__name__, scheduler.config
    random = any(part in name for part in _RANDOM) or config.get("stochastic_sampling", False)
    if random or str(config.get("algorithm_type", "")).startswith("sde"):
        raise SamplingError(
            f"{name} adds fresh noise at every step, so no clean picture can be predicted from its steps; "
            "use a deterministic scheduler (flow-matching, Euler, DDIM or DPM-Solver)"
        )
    if getattr(scheduler, "order", 1) > 1:
        raise SamplingError(f"{name} evaluates the network twice for one step; use a scheduler that does so once")
