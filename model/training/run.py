"""What every training stage shares: a time budget with its learning rate, EMA weights, checkpoints, a log."""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.training.optimizer import Optimizers

LOG_EVERY = 250  # steps
STAGES = ("vae", "latents", "teacher", "guided", "student", "sparse", "look")  # in their order; each has its log
SAVE_EVERY = 60.0  # seconds


class Budget:
    """Training by wall-clock: `progress` runs from 0 to 1, and the learning rate follows it."""

    def __init__(self, seconds: float, warmup_steps: int, cosine_from: float) -> None:
        self.seconds, self.warmup_steps, self.cosine_from = seconds, warmup_steps, cosine_from
        self.step = 0
        self.start: float | None = None

    @property
    def progress(self) -> float:
        return 0.0 if self.start is None else min(1.0, (time.monotonic() - self.start) / self.seconds)

    def stepped(self) -> None:
        """A step is done. The clock starts after the first, which compiles."""
        self.step += 1
        if self.start is None:
            self.start = time.monotonic()

    def learning_rate(self, peak: float, progress: float) -> float:
        """Linear warm-up by steps, flat, then a cosine to nothing from `cosine_from` on."""
        rate = peak * min(1.0, (self.step + 1) / self.warmup_steps)
        if progress > self.cosine_from:
            rate *= 0.5 + 0.5 * math.cos(math.pi * (progress - self.cosine_from) / (1 - self.cosine_from))
        return rate


class EMA:
    """Exponential moving average of a module's parameters, in float32."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.names = [n for n, _ in module.named_parameters()]
        self.live = [p for _, p in module.named_parameters()]
        self.average = [p.detach().clone().float() for p in self.live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))  # an early average would keep the random start
        live = [p.detach().float() for p in self.live]
        # One launch, not hundreds; public torch has no such function.
        torch._foreach_lerp_(self.average, live, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    def state_dict(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.average, strict=True))


def save_weights(path: Path, state: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """bf16 safetensors, written beside and renamed, so that a killed stage leaves the last whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    save_file({k: v.to(torch.bfloat16).contiguous().cpu() for k, v in state.items()}, part, metadata)
    part.rename(path)


def resume(module: nn.Module, path: Path) -> bool:
    """Start from an earlier run's EMA weights, if there are any; the optimiser warms up anew."""
    if not path.exists():
        return False
    state = {k: v.float() for k, v in load_file(path).items()}
    state.pop("preview", None)  # beside the VAE's own weights
    module.load_state_dict(state)
    return True


class Log:
    """One JSON object a line, on disk and on stdout."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("a")

    def __call__(self, **fields: object) -> None:
        line = json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in fields.items()})
        print(line, file=self.file, flush=True)
        print(line, flush=True)


@dataclass(frozen=True)
class Schedule:
    """How long a denoiser's stage trains, and how fast. `cosine_from`: the share of the time at full rate."""

    seconds: float
    lr: float
    cosine_from: float
    warmup_steps: int = 400
    decay: float = 0.9995
    muon: bool = True

    @staticmethod
    def arguments(parser: argparse.ArgumentParser, seconds: float, lr: float, cosine_from: float = 0.5) -> None:
        parser.add_argument("--seconds", type=float, default=seconds)
        parser.add_argument("--lr", type=float, default=lr)
        parser.add_argument("--cosine-from", type=float, default=cosine_from, help="share of the time at full rate")
        parser.add_argument("--adamw", action="store_true", help="no Muon")
        parser.add_argument("--no-compile", action="store_true")
        parser.add_argument("--look", type=int, default=64, help="held-out prompts to render and judge at the end")

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Schedule":
        return cls(args.seconds, args.lr, args.cosine_from, muon=not args.adamw)


def train(model: nn.Module, loss: Callable[[], Tensor], schedule: Schedule, path: Path, log: Log) -> int:
    """Minimise `loss`, one batch a call, until the time is up; EMA weights in `path`. Returns the steps."""
    ema = EMA(model, schedule.decay)
    optimizers = Optimizers(model, schedule.lr, schedule.muon)
    budget = Budget(schedule.seconds, schedule.warmup_steps, schedule.cosine_from)
    total = torch.zeros((), device=next(model.parameters()).device)
    saved = time.monotonic()
    while (progress := budget.progress) < 1:
        value = loss()
        value.backward()
        optimizers.step(budget.learning_rate(schedule.lr, progress))
        ema.update(budget.step)
        budget.stepped()
        total += value.detach()
        if budget.step % LOG_EVERY == 0:
            log(step=budget.step, progress=progress, loss=float(total) / LOG_EVERY)
            total.zero_()
            if time.monotonic() - saved > SAVE_EVERY:
                save_weights(path, ema.state_dict(), {"steps": str(budget.step)})
                saved = time.monotonic()
    save_weights(path, ema.state_dict(), {"steps": str(budget.step)})
    return budget.step
