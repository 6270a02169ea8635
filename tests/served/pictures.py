"""A farm that offers an image-to-video model, and pictures to send it."""

import io

import numpy as np
from PIL import Image

from farm.api.services import Services
from farm.domain.request import Models
from model.wan.config import PRESETS
from tests.library import I2V


def offer_i2v(services: Services) -> None:
    """Beside the demo model, as if a worker had advertised it."""
    models = Models({p.name: p for p in (PRESETS["demo-t2v"], I2V)}, "demo-t2v", lambda preset: "digest")
    object.__setattr__(services, "models_now", lambda: models)


def picture(width: int = 120, height: int = 60, kind: str = "PNG") -> bytes:
    """A red left half and a blue right half."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 220
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()
