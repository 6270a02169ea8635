"""`/api/images`: first frames, uploaded once and named by digest; and the image fields of a wish."""

import functools
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from farm.api.body import FileBody, Upload
from farm.api.content import stored
from farm.api.present import Json, image_url
from farm.api.services import Farm, Services
from farm.domain.errors import ObjectNotFound
from farm.domain.shape import Images
from farm.media import image as images
from farm.storage.images import head, image_key, keep, reserve, thumbnail_key

router = APIRouter(prefix="/api/images", tags=["images"])

IMAGE_FIELDS = ("image", "input_reference")


@router.post("", status_code=201)
def upload(farm: Farm, file: FileBody) -> Json:
    """The file itself as body, or a form with it in `image`. The same image again is the same digest."""
    return take_in(farm, file)


@router.get("/{digest}")
def show(farm: Farm, request: Request, digest: str) -> Response:
    _known(farm, digest)
    return stored(
        request, farm.store, image_key(digest), media_type="image/png", etag=digest, name=f"{digest[:12]}.png"
    )


@router.get("/{digest}/thumbnail")
def thumbnail(farm: Farm, request: Request, digest: str) -> Response:
    _known(farm, digest)
    return stored(
        request, farm.store, thumbnail_key(digest), media_type="image/jpeg", etag=f"{digest}-small",
        name=f"{digest[:12]}.jpg",
    )  # fmt: skip


def take_in(farm: Services, data: bytes) -> Json:
    """Decode, clean and keep; durable once this returns. Raises ImageRefused."""
    taken = images.take_in(data)
    digest = keep(farm.store, taken.png, taken.thumbnail)
    return {
        "object": "image", "digest": digest, "width": taken.width, "height": taken.height,
        "bytes": len(taken.png), "url": image_url(digest), "thumbnail_url": f"{image_url(digest)}/thumbnail",
    }  # fmt: skip


def with_images_kept(farm: Services, body: Mapping[str, Any]) -> dict[str, Any]:
    """The wish with its uploaded files replaced by the digests of what was kept."""
    wish = dict(body)
    for name, value in body.items():
        if not isinstance(value, Upload):
            continue
        if name not in IMAGE_FIELDS:
            wish[name] = value.name or "file"  # refused where the field is read
        elif not value.name and not value.data:
            del wish[name]  # a form's file field that was left empty
        elif farm.models.choose(body.get("model")).task != "i2v":
            wish[name] = value.name or "file"  # refused where the model is known: nothing is kept for it
        else:
            try:
                wish[name] = take_in(farm, value.data)["digest"]
            except images.ImageRefused as error:
                error.field = name
                raise
    return wish


def image_sizes(farm: Services) -> Images:
    """Looks each digest up in the store, once, for a wish that names it."""

    @functools.cache
    def size(digest: str) -> tuple[int, int] | None:
        first = reserve(farm.store, digest)
        return None if first is None else images.png_size(first)

    return size


def _known(farm: Services, digest: str) -> None:
    if head(farm.store, digest) is None:
        raise ObjectNotFound(f"this farm has no image {digest[:12]!r}", "upload it: POST /api/images")
