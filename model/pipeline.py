"""Text or image to video: a spec in, stages, previews and frames out. Knows no job; obeys a cancel signal."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from model import loading, sampler
from model.errors import ImageMissing, NotNumbers, RenderCancelled
from model.events import Event, Frames, Image, Preview, RenderSpec, Stage, Step
from model.library import Library
from model.loading import Resident
from model.memory import Plan, decoding_bytes
from model.wan.conditioning import fit_image, image_condition
from model.wan.config import Preset
from model.wan.transformer import WanTransformer


class Pipeline:
    """One preset, resident on one device."""

    def __init__(self, preset: Preset, parts: Resident) -> None:
        self.preset = preset
        self.parts = parts
        self.digest = parts.digest
        self.device = parts.preview.device
        self.dtype: torch.dtype = getattr(torch, preset.dtype)

    @classmethod
    def load(
        cls,
        preset: Preset,
        library: Library | None = None,
        device: str | torch.device = "cpu",
        plan: Plan | None = None,
    ) -> "Pipeline":
        """Read the preset's weights. Raises CorruptWeights naming file, tensor, expected and found."""
        return cls(preset, loading.load(preset, library or Library(), device, plan))

    def render(self, spec: RenderSpec, cancelled: Callable[[], bool] = lambda: False) -> Iterator[Event]:
        """Render `spec`, yielding events as they happen.

        Raises RenderCancelled at the first step or chunk after `cancelled()` turned true, PromptTooLong,
        ImageMissing, NotNumbers.
        """
        try:
            yield from self._render(spec, cancelled)
        except torch.OutOfMemoryError:  # whoever tries again shall have what the steps' recordings keep
            for expert in self.experts:
                expert.recordings.clear()
            raise

    def _render(self, spec: RenderSpec, cancelled: Callable[[], bool]) -> Iterator[Event]:
        if (spec.image is None) == (self.preset.task == "i2v"):
            raise ImageMissing(self.preset.name, spec.image is None)
        check(cancelled)
        yield Stage("text")
        text = self.text(spec)
        condition = None
        if spec.image is not None:
            yield Stage("image")
            check(cancelled)
            condition = self.condition(spec.image, spec)
        yield Stage("denoise")
        for expert in self.experts:
            expert.recordings.spare = max(decoding_bytes((spec.width, spec.height)), self.parts.text.visit())
        latent = self.noise(spec)
        for sample in self.denoise(latent, text, spec, condition):
            check(cancelled)
            latent = sample.latent
            # A step later nothing tells any more where it began; uint8 frames have no NaN to find.
            refuse_not_numbers(latent, f"the latent of step {sample.k}")
            yield Step(sample.k, sample.n)
            yield Preview(sample.k, self.preview_image(sample.denoised))
        yield Stage("decode")
        self.make_room(decoding_bytes((spec.width, spec.height)))
        first = 0
        with torch.inference_mode():
            chunks = self.parts.vae.stream(latent.to(self.dtype))
            while (chunk := next(chunks, None)) is not None:
                refuse_not_numbers(chunk, f"the picture from frame {first} on")
                frames = to_uint8(chunk)
                yield Frames(first, frames)
                first += len(frames)
                check(cancelled)

    @torch.inference_mode()
    def text(self, spec: RenderSpec) -> Tensor:
        """Text rows [1, text_len, text_dim] of the prompt; with guidance a second row to lead away from."""
        prompts = [spec.prompt]
        negative = self.preset.negative_prompt if spec.negative_prompt is None else spec.negative_prompt
        guided = spec.guidance != 1.0
        if guided and negative is not None:
            prompts.append(negative)
        self.make_room(self.parts.text.visit())
        rows = self.parts.text.encode(prompts)
        if guided and negative is None:  # trained to be guided by no text at all
            rows = torch.cat([rows, torch.zeros_like(rows)])
        return rows

    @torch.inference_mode()
    def condition(self, image: Image, spec: RenderSpec) -> Tensor:
        """What the transformer sees of the first frame: [1, 4 + z, t, h, w]."""
        fitted = fit_image(image, spec.width, spec.height, spec.fit)
        return image_condition(self.parts.vae, fitted, spec.frames)

    def noise(self, spec: RenderSpec) -> Tensor:
        """Standard normal [1, z, t, h, w] float32. Drawn on the CPU, so that no device changes it."""
        shape = (1, self.preset.vae.z_dim, (spec.frames + 3) // 4, spec.height // 8, spec.width // 8)
        generator = torch.Generator("cpu").manual_seed(spec.seed)
        return torch.randn(shape, generator=generator).to(self.device)

    def denoise(
        self, noise: Tensor, text: Tensor, spec: RenderSpec, condition: Tensor | None = None
    ) -> Iterator[sampler.Sample]:
        """Sampler steps from noise [b, z, t, h, w]; latents in float64.

        text: [b, text_len, text_dim], or with guidance [2 b, ...]: the prompts, then what is led away from.
        condition: [b, 4 + z, t, h, w] for image-to-video.
        """

        @torch.inference_mode()
        def velocity(x: Tensor, t: float) -> Tensor:
            x = x.to(self.dtype)
            if condition is not None:
                x = torch.cat([x, condition.to(x).expand(len(x), -1, -1, -1, -1)], dim=1)
            expert = self.expert(t)
            if self.preset.topk is not None:
                expert.topk = spec.topk or self.preset.topk
            timestep = torch.full((len(x),), 1000 * t, device=x.device)
            if self.preset.distilled:
                timestep = timestep.to(self.dtype)  # as in training
            if spec.guidance == 1.0:
                return expert(x, timestep, text)
            conditional, unconditional = (expert(x, timestep, rows) for rows in text.chunk(2))
            return sampler.guided(conditional.float(), unconditional.float(), spec.guidance)

        if not self.preset.distilled:
            return sampler.euler(velocity, noise, spec.steps, self.preset.shift)
        generator = torch.Generator("cpu").manual_seed(spec.seed + 1)

        def fresh() -> Tensor:
            return torch.randn(noise.shape, generator=generator).to(noise.device)

        return sampler.rcm(velocity, noise, spec.steps, self.preset.sigma_max, None if spec.ode else fresh)

    def make_room(self, need: int) -> None:
        """Bytes for what comes next, which was planned for; recordings of steps are there only beside it."""
        for expert in self.experts:
            expert.recordings.give_way(need)

    @property
    def experts(self) -> list[WanTransformer]:
        both = (self.parts.transformer, self.parts.low)
        return [expert for expert in both if expert is not None]

    def expert(self, t: float) -> WanTransformer:
        """The transformer for time t in [0, 1]: with two, the high-noise one from the boundary up (Wan2.2)."""
        low = self.parts.low
        return self.parts.transformer if low is None or t >= (self.preset.boundary or 0.0) else low

    def preview_image(self, denoised: Tensor) -> Image:
        """Middle frame of a latent [1, z, t, h, w] through the linear map to colour: uint8 [h, w, 3]."""
        pixels = denoised[0, :, denoised.shape[2] // 2].movedim(0, -1).float()  # [h, w, z]
        colour = pixels @ self.parts.preview[:-1] + self.parts.preview[-1]
        return ((colour.clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()


def to_uint8(video: Tensor) -> Image:
    """[1, 3, t, h, w] in [-1, 1] -> uint8 [t, h, w, 3] on the host."""
    return ((video[0].float() + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).cpu().numpy()


def refuse_not_numbers(values: Tensor, where: str) -> None:
    if not bool(values.isfinite().all()):
        raise NotNumbers(where)


def check(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise RenderCancelled
