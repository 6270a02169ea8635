"""First frames for the farm: read here, uploaded once, named by digest from then on."""

import re
from collections.abc import Callable
from pathlib import Path

import click

from farm.cli.client import Client
from farm.domain.errors import InvalidRequest

MAX_BYTES = 32 * 2**20

Command = Callable[..., None]


def image_options(command: Command) -> Command:
    """The options of every command that submits."""
    fit = click.option("--fit", help="crop | pad | stretch: how an image of another shape fills the video.")
    image = click.option("--image", help="First frame: a JPEG, PNG or WebP file, for image-to-video models.")
    return image(fit(command))


class Uploads:
    """Uploads each file once, however many jobs begin with it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._sent: dict[Path, str] = {}

    def digest(self, image: str, beside: Path | None = None) -> str:
        """The farm's name for the file `image` (relative to `beside`), or `image` itself if it is one already."""
        path = Path(image) if beside is None else beside / image
        if re.fullmatch(r"[0-9a-f]{64}", image) and not path.exists():
            return image
        path = path.expanduser().absolute()
        if path not in self._sent:
            self._sent[path] = self._client.upload("/api/images", _read(path))["digest"]
        return self._sent[path]


def _read(path: Path) -> bytes:
    try:
        # Before it is read: a film given by mistake need not be in memory.
        if path.stat().st_size > MAX_BYTES:
            raise InvalidRequest(f"{path} is larger than {MAX_BYTES >> 20} MiB", "make the image smaller", "image")
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}", "check the path", "image") from None
