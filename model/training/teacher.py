"""Stage 3: train the demo denoiser by flow matching. `python -m model.training.teacher --out runs/demo`

Rectified flow (Liu et al. 2023; Lipman et al. 2023): x_t = (1 - t) x0 + t noise, the target is noise - x0;
t is logit-normal, moved towards noise (Esser et al. 2024). A tenth of the captions is dropped, for guidance.
"""

import argparse
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from model.demo.text_encoder import DemoTextEncoder
from model.training.optimizer import Optimizers
from model.training.run import EMA, Budget, Log, resume, save_weights
from model.training.setup import CLIPS, TEXT_TO_VIDEO
from model.wan.config import TransformerConfig
from model.wan.transformer import WanTransformer

LOG_EVERY = 250  # steps


class Teacher(nn.Module):
    """Denoiser and text encoder together; `forward` is the loss of a batch."""

    def __init__(self, shapes: TransformerConfig) -> None:
        super().__init__()
        self.transformer = WanTransformer(shapes)
        self.text_encoder = DemoTextEncoder(shapes.text_dim, shapes.text_len)

    def forward(self, x0: Tensor, ids: Tensor, keep: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        # x0, noise [b, z, t, h, w]; ids [b, text_len]; keep [b] 0 where the caption is dropped; t [b]
        text = self.text_encoder(ids) * keep[:, None, None]
        shape = t.view(-1, 1, 1, 1, 1)
        velocity = self.transformer((1 - shape) * x0 + shape * noise, 1000 * t, text)
        return (velocity.float() - (noise - x0)).square().mean()


def initialise(model: Teacher) -> None:
    """Small and quiet: gates and the head start near zero, so that early steps are stable."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    transformer = model.transformer
    nn.init.normal_(transformer.get_parameter("time_projection.1.weight"), std=0.02)
    nn.init.zeros_(transformer.head.head.weight)
    for block in transformer.blocks:
        nn.init.normal_(block.get_parameter("modulation"), std=0.02)
    nn.init.normal_(model.text_encoder.token_embedding.weight, std=0.5)


def noise_levels(count: int, shift: float, device: torch.device) -> Tensor:
    """Logit-normal times in (0, 1), moved towards noise by `shift`: [count]."""
    t = torch.sigmoid(torch.randn(count, device=device))
    return shift * t / (1 + (shift - 1) * t)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", choices=CLIPS, required=True)
    parser.add_argument("--init", type=Path, help="weights to start from where the run has none yet")
    parser.add_argument("--seconds", type=float, default=700)
    parser.add_argument("--batch", type=int, help="default: by the size of the clips")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--adamw", action="store_true", help="no Muon")
    parser.add_argument("--cosine-from", type=float, default=0.5, help="share of the time at full rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clips = CLIPS[args.clips]
    batch = args.batch or clips.batch
    path = args.out / "teacher.safetensors"
    model = Teacher(TEXT_TO_VIDEO)
    initialise(model)
    resumed = resume(model, path) or (args.init and resume(model, args.init))
    model.to(device)
    pool = load_file(args.out / f"pool-{args.clips}.safetensors")
    latents, tokens = pool["latents"].to(device), pool["tokens"].to(device)
    log = Log(args.out / "teacher.jsonl")
    log(stage="teacher", clips=args.clips, resumed=bool(resumed), seed=args.seed, seconds=args.seconds, lr=args.lr,
        batch=batch, pool=len(latents), muon=not args.adamw,
        parameters=sum(x.numel() for x in model.parameters()))  # fmt: skip
    ema = EMA(model, 0.9995)
    optimizers = Optimizers(model, args.lr, muon=not args.adamw)
    if not args.no_compile:
        for block in model.transformer.blocks:  # one compilation serves all of them
            block.compile()
    budget = Budget(args.seconds, warmup_steps=400, cosine_from=args.cosine_from)
    total = torch.zeros((), device=device)
    saved = time.monotonic()
    while (progress := budget.progress) < 1:
        rows = torch.randint(len(latents), (batch,), device=device)
        wording = torch.randint(tokens.shape[1], (batch,), device=device)
        t = noise_levels(batch, clips.shift, device)
        keep = (torch.rand(batch, device=device) > 0.1).float()
        x0 = latents[rows].float()
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(x0, tokens[rows, wording].long(), keep, torch.randn_like(x0), t)
        loss.backward()
        optimizers.step(budget.learning_rate(args.lr, progress))
        ema.update(budget.step)
        budget.stepped()
        total += loss.detach()
        if budget.step % LOG_EVERY == 0:
            log(step=budget.step, progress=progress, loss=float(total) / LOG_EVERY)
            total.zero_()
            if time.monotonic() - saved > 60:
                save_weights(path, ema.state_dict(), {"steps": str(budget.step)})
                saved = time.monotonic()
    save_weights(path, ema.state_dict(), {"steps": str(budget.step)})
    log(stage="teacher done", steps=budget.step, samples=budget.step * batch)


if __name__ == "__main__":
    main()
