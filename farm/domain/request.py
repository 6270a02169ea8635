"""What people ask for, checked against the presets and turned into a JobSpec. Pure: no torch, no I/O.

Every refusal names one field, says what is wrong, and offers the nearest value that would be accepted.
"""

import difflib
import hashlib
import re
import secrets
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, cast, get_args

from farm.domain.cycles import cycle
from farm.domain.errors import FarmError, InvalidRequest, PromptRefused, UnknownModel
from farm.domain.fields import Fields, number_of, quote, refuse_unwritable
from farm.domain.job import KEY_OF, JobSpec, NewJob, batch_row_key, seed_from_key
from farm.domain.placing import depends_on, of_rows, refuse_rows, requires
from model.demo.tokenizer import KNOWN, tokenize
from model.errors import ModelError, PromptTooLong
from model.events import Fit
from model.wan.config import PRESETS, Preset
from model.wan.sizes import GRID, adaptive_size, nearest_size

MAX_SEED = 2**32 - 1
MAX_GUIDANCE = 20.0
MAX_PRIORITY = 100
FITS: tuple[Fit, ...] = get_args(Fit)

# (width, height) of the image of this digest; None: it has not been uploaded.
Images = Callable[[str], "tuple[int, int] | None"]


def no_images(digest: str) -> tuple[int, int] | None:
    """Where nothing has been uploaded."""
    return None


_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Models:
    """The models this farm can render now, by name, and the digest of each one's weights."""

    installed: Mapping[str, Preset]
    default: str
    digest: Callable[[Preset], str]

    def choose(self, name: object) -> Preset:
        choices = f"choose one of: {', '.join(self.installed) or 'none is installed yet'}"
        if name is None or name == "":
            name = self.default
        if not isinstance(name, str):
            raise UnknownModel("model must be a name", choices, "model")
        if name in self.installed:
            return self.installed[name]
        if name in PRESETS:
            raise UnknownModel(
                f"the weights of {name} are not on this farm",
                f"{choices}; or run on a machine of the farm: farm models pull {name}",
                "model",
            )
        near = difflib.get_close_matches(name, self.installed, n=1)
        hint = f"did you mean {near[0]}? {choices}" if near else choices
        raise UnknownModel(f"there is no model called {quote(name)}", hint, "model")

    def pin(self, preset: Preset) -> str:
        """The digest of the weights that are here now. Raises WeightsUnusable."""
        try:
            return self.digest(preset)
        except ModelError as error:
            raise WeightsUnusable(error.message, error.next, "model") from error


class WeightsUnusable(FarmError):
    """The model is known and listed, but its files are missing or damaged: nobody's input is wrong."""

    code = "corrupt_weights"
    status = 503


class BadRows(InvalidRequest):
    """Some rows of a batch are wrong; nothing was submitted. `rows`: (1-based row, its error)."""

    code = "invalid_batch"

    def __init__(self, rows: Sequence[tuple[int, FarmError]], total: int) -> None:
        count = "1 row is" if len(rows) == 1 else f"{len(rows)} rows are"
        super().__init__(
            f"{count} wrong of {total}; nothing was submitted",
            "correct them and submit the file again",
            "rows",
        )
        self.rows = tuple(rows)


def new_job(
    body: Mapping[str, Any],
    models: Models,
    *,
    idempotency_key: str | None = None,
    images: Images = no_images,
) -> NewJob:
    """One accepted wish. With a key and no seed the seed comes from the key: asking twice is the same."""
    if idempotency_key is not None and not (0 < len(idempotency_key) <= 255 and idempotency_key.isprintable()):
        raise InvalidRequest(
            "the idempotency key must have 1 to 255 printable characters", "shorten it", "idempotency_key"
        )
    seed_key = None if idempotency_key is None else hashlib.sha256(idempotency_key.encode()).hexdigest()
    wish = _accept(body, models, images, seed_key=seed_key, idempotency_key=idempotency_key)
    return replace(wish, depends_on=refuse_rows(wish.depends_on))


def batch_jobs(name: object, rows: object, models: Models, images: Images = no_images) -> list[NewJob]:
    """All rows of a batch, or BadRows naming every wrong one. A row is a prompt or a mapping of fields."""
    if not isinstance(name, str) or not 0 < len(name.strip()) <= 120 or not name.isprintable():
        raise InvalidRequest(
            "a batch needs a name of 1 to 120 printable characters", "name it like its file", "name"
        )
    if not isinstance(rows, list) or not rows:
        raise InvalidRequest("a batch needs at least one row", "write one prompt a line", "rows")
    seen: dict[str, int] = {}
    accepted: dict[int, NewJob] = {}
    keys: dict[int, str] = {}
    wrong: list[tuple[int, FarmError]] = []
    for number, row in enumerate(cast("list[object]", rows), start=1):
        try:
            if isinstance(row, str):
                body: Mapping[str, Any] = {"prompt": row.strip()}
            elif isinstance(row, dict):
                body = cast("dict[str, Any]", row)
            else:
                raise InvalidRequest("a row is a prompt or an object of fields", 'like {"prompt": "..."}', "rows")
            refuse_unwritable(body)
            content = batch_row_key(body, 0)
            key = batch_row_key(body, seen.get(content, 0))
            seen[content] = seen.get(content, 0) + 1
            keys[number] = key
            wish = _accept(body, models, images, seed_key=key, idempotency_key=key)
            accepted[number] = replace(wish, batch=name.strip(), interactive=False)
        except FarmError as error:
            wrong.append((number, error))
    for number, wish in accepted.items():
        try:
            accepted[number] = replace(wish, depends_on=of_rows(wish.depends_on, keys, number))
        except FarmError as error:
            wrong.append((number, error))
    wrong += _in_a_ring(accepted)
    if wrong:
        raise BadRows(sorted(wrong, key=itemgetter(0)), len(rows))  # pyright: ignore[reportUnknownArgumentType]
    return list(accepted.values())


def _in_a_ring(wishes: Mapping[int, NewJob]) -> list[tuple[int, FarmError]]:
    """The rows of one ring, each with the same error."""
    numbers = {f"{KEY_OF}{wish.idempotency_key}": number for number, wish in wishes.items()}
    needs = {
        number: [numbers[one.needs] for one in wish.depends_on if one.needs in numbers]
        for number, wish in wishes.items()
    }
    ring = cycle(needs) or []
    names = " -> ".join(f"row {number}" for number in [*ring, *ring[:1]])
    return [
        (n, InvalidRequest(f"rows wait for each other in a ring: {names}", "break it", "depends_on")) for n in ring
    ]


def check_priority(value: object) -> int:
    """A priority as PATCH takes it."""
    number = number_of(value)
    if number is None or not number.is_integer() or abs(number) > MAX_PRIORITY:
        raise InvalidRequest(
            f"priority must be a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}",
            "0 is normal, higher goes first",
            "priority",
        )
    return int(number)


def hint(spec: JobSpec) -> str | None:
    """What the person should know about an accepted prompt: words that the demo model has never seen."""
    preset = PRESETS.get(spec.model)
    if preset is None or preset.text_encoder != "demo":
        return None
    try:
        unknown = tokenize(spec.prompt, preset.transformer.text_len).unknown
    except PromptTooLong:  # accepted by an older version of the model
        return None
    if not unknown:
        return None
    words = ", ".join(unknown[:6]) + (", ..." if len(unknown) > 6 else "")
    knows = "; ".join(f"{kind}: {', '.join(things)}" for kind, things in KNOWN.items())
    return f"{spec.model} does not know: {words}. It draws, in English and Chinese, {knows}."


def frames_of(seconds: float, preset: Preset) -> int:
    """The 4k + 1 frames nearest to a duration: 5 s at 16 fps are 81 frames."""
    return 4 * round(seconds * preset.fps / 4) + 1


def seconds_of(spec: JobSpec) -> str:
    """The duration people ask for ("5" for 81 frames at 16 fps): the inverse of `frames_of`."""
    return f"{(spec.frames - 1) / spec.fps:.2f}".rstrip("0").rstrip(".")


def _accept(
    body: Mapping[str, Any],
    models: Models,
    images: Images,
    *,
    seed_key: str | None,
    idempotency_key: str | None,
) -> NewJob:
    wish = Fields(body)
    preset = models.choose(wish.get("model"))
    image, shape = _image(wish, preset, images)
    width, height = _size(wish, preset, shape)
    spec = JobSpec(
        kind=preset.task,
        model=preset.name,
        prompt=_prompt(wish.get("prompt"), preset),
        width=width,
        height=height,
        frames=_frames(wish, preset),
        fps=preset.fps,
        steps=_steps(wish, preset),
        seed=_seed(wish, seed_key),
        guidance=_guidance(wish, preset),
        model_digest=models.pin(preset),
        negative_prompt=_negative_prompt(wish, preset),
        image=image,
        fit=_fit(wish, image),
    )
    priority = wish.get("priority")
    return NewJob(
        spec=spec,
        project=_project(wish.get("project")),
        idempotency_key=idempotency_key,
        priority=0 if priority is None else check_priority(priority),
        hold=wish.flag("hold"),
        tags=_tags(wish.get("tags")),
        note=_followed(spec, shape) if wish.get("size") is None else None,
        depends_on=depends_on(wish.get("depends_on")),
        requires=requires(wish.get("requires")),
    )


def _image(wish: Fields, preset: Preset, images: Images) -> tuple[str | None, tuple[int, int] | None]:
    """The digest of the first frame and its (width, height), of a model that begins with one."""
    field = "image" if wish.get("image") is not None else "input_reference"
    value = wish.get(field)
    if preset.task != "i2v":
        if value is not None:
            raise InvalidRequest(
                f"{preset.name} makes videos from text only",
                "leave the image out, or choose an image-to-video model",
                field,
            )
        return None, None
    if value is None:
        raise InvalidRequest(
            f"{preset.name} needs an image to begin with",
            "add one: --image PATH, a file as input_reference, or the digest of an uploaded image",
            "image",
        )
    if wish.get("image") is not None and wish.get("input_reference") is not None:
        raise InvalidRequest("give image or input_reference, not both", "leave one of them out", "image")
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise InvalidRequest(
            f"{field} must be an image file or the digest of an uploaded one, not {quote(value)}",
            "upload it first: POST /api/images answers with its digest",
            field,
        )
    shape = images(value)
    if shape is None:
        raise InvalidRequest(
            f"this farm has no image {quote(value[:12])}", "upload it first: POST /api/images", field
        )
    return value, shape


def _fit(wish: Fields, image: str | None) -> Fit:
    value = wish.get("fit")
    if value is None or image is None:
        if value is not None:
            raise InvalidRequest("fit says how an image fills the video", "leave it out, or add an image", "fit")
        return "crop"
    for fit in FITS:
        if value == fit:
            return fit
    raise InvalidRequest(
        f"fit must be one of {', '.join(FITS)}, not {quote(value)}",
        "crop cuts the image's edges, pad adds bars, stretch distorts it",
        "fit",
    )


def _followed(spec: JobSpec, shape: tuple[int, int] | None) -> str | None:
    if shape is None:
        return None
    return f"The video is {spec.width}x{spec.height}, after the shape of the image; a size fixes it."


def _negative_prompt(wish: Fields, preset: Preset) -> str | None:
    value = wish.get("negative_prompt")
    if value is None:
        return None
    if preset.negative_prompt is None:
        why = "it is distilled and runs without guidance" if preset.distilled else "it is guided by an empty one"
        raise InvalidRequest(
            f"{preset.name} takes no negative prompt: {why}",
            "say in the prompt what should be seen, and leave the negative prompt out",
            "negative_prompt",
        )
    if not isinstance(value, str):
        raise InvalidRequest(
            f"the negative prompt must be text, not {quote(value)}",
            "say what should not be seen",
            "negative_prompt",
        )
    try:
        return _prompt(value, preset)
    except PromptRefused as error:
        raise InvalidRequest(
            error.message.replace("the prompt", "the negative prompt"), error.next, "negative_prompt"
        ) from None


def _prompt(value: object, preset: Preset) -> str:
    example = 'describe what should be seen, for example: "a large red circle moving left to right"'
    if value is None:
        raise PromptRefused("a prompt is needed", example, "prompt")
    if not isinstance(value, str):
        raise PromptRefused(f"the prompt must be text, not {quote(value)}", example, "prompt")
    text = value.strip()
    refuse_unwritable({"prompt": text})
    if not any(unicodedata.category(c)[0] in "LNPS" for c in text):
        raise PromptRefused("the prompt is empty", example, "prompt")
    if len(text) > preset.max_prompt_chars:
        raise PromptRefused(
            f"the prompt has {len(text)} characters; {preset.name} reads at most {preset.max_prompt_chars}",
            f"shorten it by {len(text) - preset.max_prompt_chars} characters",
            "prompt",
        )
    if preset.text_encoder == "demo":
        try:
            tokenize(text, preset.transformer.text_len)
        except PromptTooLong as error:
            raise PromptRefused(error.message, error.next, "prompt") from error
    return text


def _size(wish: Fields, preset: Preset, image: tuple[int, int] | None) -> tuple[int, int]:
    value = wish.get("size")
    if value is None:
        return preset.size if image is None else adaptive_size(image, preset.size, preset)
    default = f"{preset.size[0]}x{preset.size[1]}"
    sides = value.lower().replace("×", "x").replace("*", "x").split("x") if isinstance(value, str) else []
    numbers = [number_of(side) for side in sides]
    if len(numbers) != 2 or any(n is None or n <= 0 or not n.is_integer() for n in numbers):
        raise InvalidRequest(f"size must look like {default}, not {quote(value)}", f"use {default}", "size")
    width, height = (min(int(cast(float, n)), 10**9) for n in numbers)
    allowed = (
        width % GRID == 0
        and height % GRID == 0
        and preset.min_side <= min(width, height)
        and max(width, height) <= preset.max_side
        and width * height <= preset.max_pixels
    )
    if allowed:
        return width, height
    near = "x".join(map(str, nearest_size(width, height, preset)))
    if preset.min_side == preset.max_side:
        raise InvalidRequest(f"{preset.name} renders {near} only, not {value}", f"use {near}", "size")
    if width % GRID or height % GRID:
        why = f"width and height must be multiples of {GRID}"
    else:
        why = (
            f"{preset.name} renders sides from {preset.min_side} to {preset.max_side} "
            f"and at most {preset.max_pixels} pixels"
        )
    raise InvalidRequest(f"size {value} does not fit: {why}", f"the nearest that does is {near}", "size")


def _frames(wish: Fields, preset: Preset) -> int:
    frames, seconds = wish.integer("frames"), wish.number("seconds")
    if frames is not None and seconds is not None:
        raise InvalidRequest("give frames or seconds, not both", "leave one of them out", "frames")
    if frames is None and seconds is None:
        return preset.frames
    least, most = preset.min_frames, preset.max_frames
    if seconds is not None:
        if not 0 < seconds < 1e6:
            raise InvalidRequest(
                f"{seconds:g} seconds are no length of a video", f"use {_length(preset)}", "seconds"
            )
        frames = frames_of(seconds, preset)
        if not least <= frames <= most:
            raise InvalidRequest(
                f"{seconds:g} seconds are {frames} frames at {preset.fps} a second; {preset.name} renders "
                + (f"{least} to {most}" if least < most else f"{most} and no others"),
                f"use {_length(preset)}",
                "seconds",
            )
        return frames
    assert frames is not None
    if frames % 4 == 1 and least <= frames <= most:
        return frames
    near = min(max(4 * round((frames - 1) / 4) + 1, least), most)
    if least == most:
        why = f"{preset.name} renders {most} frames and no others"
    else:
        why = f"frames must be 4k + 1 ({least}, {least + 4}, {least + 8}, ...), at most {most} for {preset.name}"
    raise InvalidRequest(f"{why}; not {frames}", f"the nearest is {near}", "frames")


def _length(preset: Preset) -> str:
    """What to ask for instead, in seconds and frames."""
    least, most = (f"{(n - 1) / preset.fps:.4g}" for n in (preset.min_frames, preset.max_frames))
    if least == most:
        return f"seconds {most} (frames {preset.max_frames})"
    return f"seconds {least} to {most} (frames {preset.min_frames} to {preset.max_frames})"


def _steps(wish: Fields, preset: Preset) -> int:
    steps = wish.integer("steps")
    if steps is None:
        return preset.steps
    if not 1 <= steps <= preset.max_steps:
        why = ", it is distilled to them" if preset.distilled else ""
        raise InvalidRequest(
            f"{preset.name} takes 1 to {preset.max_steps} steps{why}; not {steps}",
            f"the nearest is {min(max(steps, 1), preset.max_steps)}",
            "steps",
        )
    return steps


def _seed(wish: Fields, key: str | None) -> int:
    seed = wish.integer("seed")
    if seed is None:
        return secrets.randbits(32) if key is None else seed_from_key(key)
    if not 0 <= seed <= MAX_SEED:
        raise InvalidRequest(
            f"seed must be from 0 to {MAX_SEED}, not {str(seed)[:40]}",
            f"the nearest is {min(max(seed, 0), MAX_SEED)}; leave it out for a random one",
            "seed",
        )
    return seed


def _guidance(wish: Fields, preset: Preset) -> float:
    guidance = wish.number("guidance")
    if guidance is None:
        return preset.guidance
    if preset.distilled and guidance != 1.0:
        raise InvalidRequest(
            f"{preset.name} is distilled: its guidance is built in", "leave guidance out (or 1)", "guidance"
        )
    if not 1.0 <= guidance <= MAX_GUIDANCE:
        near = min(max(guidance, 1.0), MAX_GUIDANCE)
        raise InvalidRequest(
            f"guidance must be from 1 (off) to {MAX_GUIDANCE:g}, not {guidance:g}",
            f"the nearest is {near:g}; {preset.name} likes {preset.guidance:g}",
            "guidance",
        )
    return guidance


def _project(value: object) -> str:
    if value is None:
        return "default"
    # A lane's name is owner/project/class/model: a slash would make two lanes one.
    if not isinstance(value, str) or not 0 < len(value) <= 60 or "/" in value or not value.isprintable():
        raise InvalidRequest(
            "project must be a name of 1 to 60 printable characters without '/'", "like trailer-2", "project"
        )
    return value


def _tags(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, dict):
        tags = cast("dict[object, object]", value)
        if len(tags) <= 32 and all(
            isinstance(part, str) and part.isprintable() and len(part) <= 200 for kv in tags.items() for part in kv
        ):
            return cast("dict[str, str]", tags)
    raise InvalidRequest("tags must be an object of at most 32 short texts", 'like {"shot": "12a"}', "tags")
