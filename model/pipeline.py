"""Text to video: a spec in, stages, previews and frames out. Knows no job; obeys a cancel signal at every step."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from model import sampler
from model.checkpoints import safetensors
from model.checkpoints.fill import check as check_weights
from model.checkpoints.fill import fill
from model.demo.text_encoder import DemoTextEncoder
from model.errors import CorruptWeights, ModelError, RenderCancelled
from model.events import Event, Frames, Image, Preview, RenderSpec, Stage, Step
from model.library import Library
from model.wan.config import Preset
from model.wan.transformer import WanTransformer
from model.wan.vae import WanVAE


class Pipeline:
    """One preset's text encoder, denoiser and VAE, resident on one device."""

    def __init__(
        self,
        preset: Preset,
        text_encoder: DemoTextEncoder,
        transformer: WanTransformer,
        vae: WanVAE,
        preview: Tensor,
        digest: str,
    ) -> None:
        self.preset = preset
        self.text_encoder = text_encoder
        self.transformer = transformer
        self.vae = vae
        self.preview = preview  # [z + 1, 3]: linear map from a latent pixel to its colour
        self.digest = digest
        self.device = preview.device

    @classmethod
    def load(cls, preset: Preset, library: Library | None = None, device: str | torch.device = "cpu") -> "Pipeline":
        """Read the preset's weights. Raises CorruptWeights naming file, tensor, expected and found.

        float32 on every device: the packaged model is small, and a seed shall mean one video everywhere.
        """
        if preset.text_encoder != "demo":
            raise ModelError(f"{preset.name} cannot be loaded yet", "use demo-t2v")
        if preset.weights is None or not preset.weights.is_dir():
            raise CorruptWeights(f"no weights of {preset.name} on this machine", "install them first")
        config, dtype = preset.transformer, torch.float32
        with torch.device("meta"):
            text_encoder = DemoTextEncoder(config.text_dim, config.text_len)
            transformer = WanTransformer(config)
        vae = WanVAE(preset.vae)  # not on meta: its latent statistics are buffers that no file holds
        parts = {"text_encoder": text_encoder, "transformer": transformer, "vae": vae}
        for name, module in parts.items():
            path = preset.weights / f"{name}.safetensors"
            fill(module, safetensors.read(path), path, dtype)
            module.to(device).eval().requires_grad_(False)
        path = preset.weights / "preview.safetensors"
        preview = safetensors.read(path)
        check_weights(preview, {"colour": torch.empty(preset.vae.z_dim + 1, 3)}, path)
        colour = preview["colour"].to(device, dtype)
        return cls(preset, text_encoder, transformer, vae, colour, (library or Library()).digest(preset))

    def render(self, spec: RenderSpec, cancelled: Callable[[], bool] = lambda: False) -> Iterator[Event]:
        """Render `spec`, yielding events as they happen.

        Raises RenderCancelled at the first step or chunk after `cancelled()` turned true, PromptTooLong.
        """
        check(cancelled)
        yield Stage("text")
        with torch.inference_mode():
            text = self.text_encoder.encode([spec.prompt])
        yield Stage("denoise")
        latent = self.noise(spec)
        for sample in self.denoise(latent, text, spec):
            check(cancelled)
            latent = sample.latent
            yield Step(sample.k, sample.n)
            yield Preview(sample.k, self.preview_image(sample.denoised))
        yield Stage("decode")
        first = 0
        with torch.inference_mode():
            chunks = self.vae.stream(latent.float())
            while (chunk := next(chunks, None)) is not None:
                frames = to_uint8(chunk)
                yield Frames(first, frames)
                first += len(frames)
                check(cancelled)

    def noise(self, spec: RenderSpec) -> Tensor:
        """Standard normal [1, z, t, h, w] float32. Drawn on the CPU, so that no device changes it."""
        shape = (1, self.preset.vae.z_dim, (spec.frames + 3) // 4, spec.height // 8, spec.width // 8)
        generator = torch.Generator("cpu").manual_seed(spec.seed)
        return torch.randn(shape, generator=generator).to(self.device)

    def denoise(self, noise: Tensor, text: Tensor, spec: RenderSpec) -> Iterator[sampler.Sample]:
        """Sampler steps from noise [b, z, t, h, w] under text [b, text_len, text_dim]; latents in float64."""

        @torch.inference_mode()
        def velocity(x: Tensor, t: float) -> Tensor:
            x = x.float()
            if spec.guidance == 1.0:
                return self.transformer(x, torch.full((len(x),), 1000 * t, device=x.device), text)
            both = torch.cat([text, torch.zeros_like(text)])
            timestep = torch.full((2 * len(x),), 1000 * t, device=x.device)
            conditional, unconditional = self.transformer(torch.cat([x, x]), timestep, both).chunk(2)
            return sampler.guided(conditional, unconditional, spec.guidance)

        if not self.preset.distilled:
            return sampler.euler(velocity, noise, spec.steps, self.preset.shift)
        generator = torch.Generator("cpu").manual_seed(spec.seed + 1)

        def fresh() -> Tensor:
            return torch.randn(noise.shape, generator=generator).to(noise.device)

        return sampler.rcm(velocity, noise, spec.steps, self.preset.sigma_max, fresh)

    def preview_image(self, denoised: Tensor) -> Image:
        """Middle frame of a latent [1, z, t, h, w] through the linear map to colour: uint8 [h, w, 3]."""
        pixels = denoised[0, :, denoised.shape[2] // 2].movedim(0, -1).float()  # [h, w, z]
        colour = pixels @ self.preview[:-1] + self.preview[-1]
        return ((colour.clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()


def to_uint8(video: Tensor) -> Image:
    """[1, 3, t, h, w] in [-1, 1] -> uint8 [t, h, w, 3] on the host."""
    return ((video[0] + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).cpu().numpy()


def check(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise RenderCancelled
