"""The diffusion model's training in one process with all data on one device, the whole step as one CUDA graph there.

A step of a network this small is short beside what a CPU needs to draw its samples and to launch its kernels. Here
random numbers are drawn on the device, and on a CUDA device drawing, forward and backward pass, clipping, AdamW and
averaging are recorded once and replayed. Without a graph the same step runs plainly, on any device. Samples are of
the device's generator and not those of Lightning's loop (`recipes.clevr.training.fit`): the two do not go on with
each other's checkpoints.
"""

import logging
import time
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn

from recipes.clevr.training.diffusion import DiffusionTraining, Draw, autocast, average_decay, even_places
from recipes.clevr.training.fit import CHECKPOINT, Checkpoints

log = logging.getLogger(__name__)

_CLIP = 1.0  # the largest norm of all gradients together, as in the other stages
_WARM_UP = 4  # steps before a graph is recorded, in which libraries choose their kernels and take their memory
_SAY_EVERY = 500  # steps


class DeviceStep:
    """One optimiser step of a `DiffusionTraining`, all on one device.

    Args:
        module: what is trained, moved to the device.
        device: the device.
        graph: whether to record the step as a CUDA graph; only on a CUDA device.
    """

    def __init__(self, module: DiffusionTraining, *, device: torch.device, graph: bool) -> None:
        module.to(device)
        self.module, self.device = module, device
        module.move_data(device)
        self.on_cuda = device.type == "cuda"
        if self.on_cuda:
            for networks in (module.trained, module.averaged):
                unet: Any = networks["unet"]
                unet.set_attn_processor(AttnProcessor2_0())
        self.optimizer = module.adamw(capturable=self.on_cuda)
        self.average_rate = torch.zeros((), device=device)
        self.sums = torch.zeros(2, device=device)  # of loss and error over the steps since they were last read
        self._graph: torch.cuda.CUDAGraph | None = None
        self._wants_graph = graph and self.on_cuda

    def run(self, *, factor: float, step: int) -> None:
        """One step.

        Args:
            factor: learning rate as a share of its peak.
            step: steps done when it is.
        """
        if self._wants_graph and self._graph is None:
            self._graph = self._recorded()
        self._set_rate(factor)
        self.average_rate.fill_(1 - average_decay(step, self.module.settings.ema))
        if self._graph is not None:
            self._graph.replay()
        else:
            self._step()

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on: weights, the optimiser's state and that of the random numbers."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.cuda.get_rng_state(self.device) if self.on_cuda else torch.get_rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave; before the first step."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.on_cuda:
            for group in self.optimizer.param_groups:
                group["lr"] = torch.as_tensor(group["lr"], device=self.device)
            torch.cuda.set_rng_state(state["random"].cpu(), self.device)
        else:
            torch.set_rng_state(state["random"].cpu())

    def mean_losses(self, steps: int) -> tuple[float, float]:
        """Mean loss and error of the last `steps` steps, those since this was last asked."""
        loss, error = (self.sums / steps).tolist()
        self.sums.zero_()
        return loss, error

    def _step(self) -> None:
        module = self.module
        draw = self._draw()
        with autocast(self.device, module.settings.precision):
            losses, errors = module.errors(module.trained, draw)
        torch.autograd.backward(losses.mean())
        nn.utils.clip_grad_norm_(module.trained.parameters(), _CLIP)
        self.optimizer.step()
        # kept and not freed: a graph writes where it wrote when it was recorded
        self.optimizer.zero_grad(set_to_none=False)
        module.average(self.average_rate)
        self.sums += torch.stack([losses.detach().mean(), errors.detach().mean()])

    def _draw(self) -> Draw:
        data, batch, device = self.module.data, self.module.settings.batch, self.device
        chosen = torch.randint(len(data), (batch,), device=device)
        variants = torch.randint(data.tokens.shape[1], (batch,), device=device)
        empty = torch.rand(batch, device=device) < self.module.settings.empty
        latents = data.latents[chosen]
        return Draw(
            latents=latents,
            tokens=data.captions(chosen, variants=variants, empty=empty),
            noise=torch.randn_like(latents),
            places=even_places(batch, device=device),
        )

    def _set_rate(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(group["peak_lr"] * factor)
            else:
                group["lr"] = group["peak_lr"] * factor

    def _recorded(self) -> torch.cuda.CUDAGraph:
        """The step as a graph; weights, optimiser and random numbers are as before."""
        random = torch.cuda.get_rng_state(self.device)
        before = {
            weight: {name: value.clone() for name, value in state.items()}
            for weight, state in self.optimizer.state.items()
        }
        self._set_rate(0.0)  # neither weights nor their averages move
        self.average_rate.zero_()
        side: Any = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                self._step()
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        for weight, state in self.optimizer.state.items():
            for name, value in state.items():
                value.copy_(before[weight][name]) if weight in before else value.zero_()
        self.sums.zero_()
        torch.cuda.set_rng_state(random, self.device)
        return graph


def fit_on_device(module: DiffusionTraining, *, device: torch.device, origin: str = "", logger: Any = None) -> float:
    """Train `module` until its budget is used, from the last whole checkpoint in its folder if there is one.

    Args:
        module: what is trained, in place; on the CPU again when it is done.
        device: where it is trained.
        origin: names what is trained, from what and how; checkpoints of another origin are left alone.
        logger: Lightning's, or None.

    Returns:
        Minutes of training, over all resumed parts.
    """
    module.folder.mkdir(parents=True, exist_ok=True)
    settings, checkpoints = module.settings, Checkpoints(origin=f"{origin} on one device")
    module.curves = logger
    torch.manual_seed(module.seed)
    work = DeviceStep(module, device=device, graph=settings.graph)
    last, step, minutes = checkpoints.last(module.folder), 0, 0.0
    if last is not None:
        kept = checkpoints.load_checkpoint(last)
        step, minutes = int(kept["step"]), float(kept["minutes"])
        work.restore(kept["state"])
    elif settings.start_from is not None:
        module.publish(module.measure_and_keep(0), step=0)
    since = time.monotonic() - 60 * minutes
    progress = module.budget.progress(step=step, minutes=minutes)
    while progress < 1.0:
        work.run(factor=module.budget.factor(step=step, progress=progress), step=step + 1)
        step += 1
        minutes = (time.monotonic() - since) / 60
        progress = module.budget.progress(step=step, minutes=minutes)
        if step % 50 == 0 and work.on_cuda:
            torch.cuda.synchronize(device)  # else the clock would run ahead of the work
        if step % _SAY_EVERY == 0:
            loss, error = work.mean_losses(_SAY_EVERY)
            module.publish({"diffusion/loss": loss, "diffusion/error": error}, step=step)
        if step % settings.measure_every == 0 or progress >= 1.0:
            module.publish(module.measure_and_keep(step), step=step)
            if settings.patience is not None and int(module.worse) >= settings.patience:
                progress = 1.0
        if step % settings.show_every == 0:
            module.show(step)
        if step % settings.save_every == 0 or progress >= 1.0:
            state = {"state": work.state(), "step": step, "minutes": minutes}
            checkpoints.save_checkpoint(state, module.folder / CHECKPOINT)
    module.to("cpu")
    return minutes
