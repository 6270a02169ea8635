"""Image-to-video: a picture fitted to the video, and the channels that tell the transformer about it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from model.events import Fit, Image
from model.wan.vae import WanVAE

_PAD = -1.0  # black bars


def fit_image(image: Image, width: int, height: int, fit: Fit) -> Tensor:
    """A picture uint8 [h, w, 3] as [3, height, width] float32 in [-1, 1], resized with antialiasing on the CPU.

    crop: fills the frame and cuts what juts out, evenly on both sides; pad: all of it, with black bars;
    stretch: both sides made to fit.
    """
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    scales = (height / pixels.shape[2], width / pixels.shape[3])
    if fit == "stretch":
        return _resize(pixels, height, width)[0]
    scale = max(scales) if fit == "crop" else min(scales)
    inner_h, inner_w = (max(1, round(side * scale)) for side in pixels.shape[2:])
    resized = _resize(pixels, inner_h, inner_w)[0]
    if fit == "crop":
        top, left = (inner_h - height) // 2, (inner_w - width) // 2
        return resized[:, top : top + height, left : left + width]
    framed = torch.full((3, height, width), _PAD)
    top, left = (height - inner_h) // 2, (width - inner_w) // 2
    framed[:, top : top + inner_h, left : left + inner_w] = resized
    return framed


def image_condition(vae: WanVAE, image: Tensor, frames: int) -> Tensor:
    """[3, h, w] in [-1, 1] -> [1, 4 + z, t, h / 8, w / 8]: a mask that is 1 on the first latent frame, and the
    normalised latent of the image followed by zero frames (Wan2.1 and 2.2, image to video)."""
    weight = vae.conv1.weight
    video = torch.zeros(1, 3, frames, *image.shape[1:], device=weight.device, dtype=weight.dtype)
    video[0, :, 0] = image.to(video)
    latent = vae.encode(video)
    mask = torch.zeros(1, 4, *latent.shape[2:], device=latent.device, dtype=latent.dtype)
    mask[:, :, 0] = 1
    return torch.cat([mask, latent], dim=1)


def _resize(pixels: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(pixels, (height, width), mode="bilinear", antialias=True, align_corners=False)
