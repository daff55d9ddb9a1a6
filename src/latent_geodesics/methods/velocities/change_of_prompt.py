"""Leave an image in the direction in which another prompt would have it differ."""

from dataclasses import replace

import torch

from latent_geodesics.core.errors import UserError
from latent_geodesics.methods.departure import Departure, Launch
from latent_geodesics.methods.velocities.base import InitialVelocity, aimed, check_angle

__all__ = ["ChangeOfPrompt"]


class ChangeOfPrompt(InitialVelocity):
    """The difference of the scores of two prompts at the image, `s(x | c') - s(x | c)`.

    It is the gradient of `log p(c' | x) - log p(c | x)`: the way in which the image comes to fit the new prompt sooner
    than its own. The density along the path is the run's between the two prompts (`methods.conditions`); in the code
    published with Yu et al. 2025 (arXiv 2504.06675), whose initial velocities are random or from a file, it moves from
    the one to the other. Frames are decoded under a condition that does.

    Args:
        prompt: The new prompt; None takes what the second image of a pair shows.
        angle: The length of the path as an angle, in radians.
        moving: Whether the path leads to the new prompt; else density and decoding stay the image's own.

    Raises:
        UserError: if `angle` is not positive.
    """

    words = "the difference of the scores of two prompts"

    def __init__(self, *, prompt: str | None = None, angle: float = 0.7, moving: bool = True) -> None:
        check_angle(angle)
        self.prompt, self.angle, self.moving = prompt, angle, moving

    def check(self, prompts: dict[str, tuple[str, str]]) -> None:
        """Every image needs a prompt that differs from its own."""
        for name, (own, other) in prompts.items():
            if self._target(other) == own:
                raise UserError(
                    f"The initial velocity of '{name}' from a change of prompt is zero: the new prompt is its own, "
                    f"'{own}'. Give another by velocities.prompt.prompt='...', or leave this velocity out."
                )

    def launch(self, departure: Departure) -> Launch:
        """The first image, and the difference of the scores there."""
        setting, first = departure.setting, departure.first
        others = [start.second_prompt for start in departure.starts]
        target = setting.model.condition([self._target(other) for other in others])
        at_start = torch.zeros(len(first.latents), device=first.latents.device)
        new, own = (setting.field(c).score(first.latents, at_start) for c in (target, first.condition))
        launch = aimed(
            new - own,
            departure,
            angle=self.angle,
            cause="from the change of its prompt",
            remedy="give a prompt that says something else",
        )
        return replace(launch, condition1=target) if self.moving else launch

    def _target(self, other: str) -> str:
        return other if self.prompt is None else self.prompt
