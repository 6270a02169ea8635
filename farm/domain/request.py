"""What people ask for, checked against the presets and turned into a JobSpec. Pure: no torch, no I/O.

Every refusal names one field, says what is wrong, and offers the nearest value that would be accepted.
"""

import difflib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, cast

from farm.domain.cycles import cycle
from farm.domain.errors import FarmError, InvalidRequest, UnknownModel
from farm.domain.fields import Fields, number_of, quote, refuse_unwritable
from farm.domain.job import KEY_OF, MAX_PRIORITY, JobSpec, NewJob, batch_row_key
from farm.domain.placing import depends_on, not_before, of_rows, refuse_rows, requires
from farm.domain.prompt import negative_prompt_of, prompt_of
from farm.domain.sampling import guidance_of, ode_of, quality_of, seed_of, steps_of
from farm.domain.shape import Images, fit_of, followed, frames_asked, image_of, size_of
from model.errors import ModelError
from model.wan.config import PRESETS, Preset


def no_images(digest: str) -> tuple[int, int] | None:
    """Where nothing has been uploaded."""
    return None


@dataclass(frozen=True)
class Models:
    """The models this farm can render now, by name, and the digest of each one's weights."""

    installed: Mapping[str, Preset]
    default: str
    digest: Callable[[Preset], str]
    expands: bool = False  # whether the operator has set a prompt expander

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
    image, shape = image_of(wish, preset, images)
    width, height = size_of(wish, preset, shape)
    spec = JobSpec(
        kind=preset.task,
        model=preset.name,
        prompt=prompt_of(wish.get("prompt"), preset),
        width=width,
        height=height,
        frames=frames_asked(wish, preset),
        fps=preset.fps,
        steps=steps_of(wish, preset),
        seed=seed_of(wish, seed_key),
        guidance=guidance_of(wish, preset),
        model_digest=models.pin(preset),
        negative_prompt=negative_prompt_of(wish, preset),
        image=image,
        fit=fit_of(wish, image),
        quality=quality_of(wish, preset),
        ode=ode_of(wish, preset),
        expand=_expand(wish, models),
    )
    priority = wish.get("priority")
    return NewJob(
        spec=spec,
        project=_project(wish.get("project")),
        idempotency_key=idempotency_key,
        priority=0 if priority is None else check_priority(priority),
        hold=wish.flag("hold"),
        not_before=not_before(wish.get("not_before")),
        tags=_tags(wish.get("tags")),
        note=followed(wish, spec, shape),
        depends_on=depends_on(wish.get("depends_on")),
        requires=requires(wish.get("requires")),
    )


def _expand(wish: Fields, models: Models) -> bool:
    expand = wish.flag("expand")
    if expand and not models.expands:
        raise InvalidRequest(
            "this farm has no prompt expander",
            "write the prompt out yourself, or have the operator set expander_command or expander_url",
            "expand",
        )
    return expand


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
