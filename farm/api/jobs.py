"""`/api/jobs`: everything about jobs. Each change pokes the dispatcher once it is durable."""

from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from farm.api.body import Body, IdempotencyKey
from farm.api.content import file_name, matches, stored
from farm.api.continuing import continued
from farm.api.images import IMAGE_FIELDS, image_sizes, with_images_kept
from farm.api.present import Json, attempt_json, dependency_json, job_json, wish_json
from farm.api.services import Farm, Services
from farm.api.variants import made_into
from farm.db import jobs, lanes, leases, quarantines, workers
from farm.db.engine import Database
from farm.db.leases import Stalled
from farm.domain.errors import InvalidRequest, NotReady, VideoRemoved
from farm.domain.fields import quote
from farm.domain.job import Artifact, Assignment, Job, NewJob
from farm.domain.prompt import hint
from farm.domain.request import check_priority, new_job
from farm.domain.states import JobState
from farm.media.transcode import Variant
from farm.ops.job_log import lines_of
from farm.scheduling.lanes import Reason
from farm.scheduling.surroundings import Surroundings
from farm.scheduling.why import why
from farm.storage.keys import beside

router = APIRouter(prefix="/api/jobs", tags=["jobs"])

Limit = Annotated[int, Query(ge=1, le=500)]


@router.post("", status_code=201)
def create(
    farm: Farm,
    body: Body,
    response: Response,
    idempotency_key: IdempotencyKey = None,
    dry_run: bool = False,
) -> Json:
    """201 for a new job, 200 for the one that this Idempotency-Key made before.

    `dry_run`: 200 and what would be rendered; nothing is submitted.
    """
    if dry_run:
        response.status_code = 200
        wish = accept(farm, body, idempotency_key)
        return {**wish_json(wish), "hint": hint(wish.spec) or wish.note}
    return submit_one(farm, accept(farm, body, idempotency_key), response)


@router.get("")
def index(
    farm: Farm,
    state: Annotated[list[str] | None, Query()] = None,
    model: str | None = None,
    owner: str | None = None,
    project: str | None = None,
    tag: str | None = None,
    batch: str | None = None,
    search: str | None = None,
    limit: Limit = 50,
    after: str | None = None,
    order: Literal["asc", "desc"] = "desc",
) -> Json:
    """A page of jobs, by age; `next` is the cursor of the next page, null on the last. `tag` is like shot=12a."""
    found, cursor = jobs.find(
        farm.db, states=parse_states(state), model=model, owner=owner, project=project, tag=parse_tag(tag),
        batch=batch, search=search, limit=limit, after=after, order=order,
    )  # fmt: skip
    counts = {state.value: n for state, n in jobs.counts(farm.db).items()}
    return {"object": "list", "data": [job_json(job) for job in found], "next": cursor, "counts": counts}


@router.get("/{job_id}")
def show(farm: Farm, job_id: str) -> Json:
    return job_detail(farm, job_id)


@router.patch("/{job_id}")
def change(farm: Farm, job_id: str, body: Body) -> Json:
    """`priority`, and `hold` true or false."""
    unknown = set(body) - {"priority", "hold"}
    if unknown or not body:
        raise InvalidRequest("priority and hold can be changed", "a job's spec is fixed: rerun it", "body")
    hold = body.get("hold")
    if hold is not None and not isinstance(hold, bool):
        raise InvalidRequest("hold must be true or false", "true keeps it from starting, false lets it go", "hold")
    if "priority" in body:
        jobs.set_priority(farm.db, job_id, check_priority(body["priority"]))
    if hold is not None:
        (jobs.hold if hold else jobs.release)(farm.db, job_id)
    farm.poke()
    return job_json(jobs.get(farm.db, job_id))


@router.post("/{job_id}/cancel")
def cancel(farm: Farm, job_id: str) -> Json:
    return _move(farm, jobs.cancel, job_id)


@router.post("/{job_id}/hold")
def hold(farm: Farm, job_id: str) -> Json:
    return _move(farm, jobs.hold, job_id)


@router.post("/{job_id}/release")
def release(farm: Farm, job_id: str) -> Json:
    return _move(farm, jobs.release, job_id)


@router.post("/{job_id}/front")
def front(farm: Farm, job_id: str) -> Json:
    """Before all that wait in its lane, by its priority."""
    return _move(farm, jobs.move_to_front, job_id)


@router.post("/{job_id}/retry")
def retry(farm: Farm, job_id: str) -> Json:
    """The same row once more, with its seed, at the next epoch."""
    return _move(farm, jobs.retry, job_id)


@router.post("/{job_id}/rerun", status_code=201)
def rerun(farm: Farm, job_id: str, body: Body, response: Response, idempotency_key: IdempotencyKey = None) -> Json:
    """A new job with the same settings; fields of the body change some, `seed` null draws a new one."""
    return submit_one(farm, again(farm, job_id, body, idempotency_key), response)


@router.get("/{job_id}/content")
def content(
    farm: Farm,
    request: Request,
    job_id: str,
    download: bool = False,
    variant: Literal["video", "players", "prores", "png"] = "video",
    fps: int | None = None,
    conform: bool = False,
) -> Response:
    """The video; or made into another form: for any player, ProRes, a ZIP of PNGs, at another frame rate."""
    job, artifact = finished(farm, job_id)
    if variant != Variant.VIDEO or fps not in {None, job.spec.fps}:
        return made_into(farm, job, artifact, Variant(variant), fps, conform)
    return stored(
        request, farm.store, artifact.key, media_type="video/mp4", etag=artifact.sha256,
        name=file_name(job, "mp4"), download=download, redirect=farm.store_redirect,
    )  # fmt: skip


@router.get("/{job_id}/thumbnail")
def thumbnail(farm: Farm, request: Request, job_id: str, small: bool = False) -> Response:
    """The middle frame; `small`: at most 320 pixels wide."""
    job, artifact = finished(farm, job_id)
    key = beside(artifact.key, "thumbnail") if small else artifact.poster_key
    if small and farm.store.size(key) is None:  # of a video older than thumbnails
        key, small = artifact.poster_key, False
    return stored(
        request, farm.store, key, media_type="image/jpeg",
        etag=f"{artifact.sha256}-{'small' if small else 'poster'}", name=file_name(job, "jpg"),
    )  # fmt: skip


@router.get("/{job_id}/strip")
def strip(farm: Farm, request: Request, job_id: str) -> Response:
    """Eight frames side by side, left to right in time."""
    job, artifact = finished(farm, job_id)
    key = beside(artifact.key, "strip")
    return stored(
        request, farm.store, key, media_type="image/jpeg", etag=f"{artifact.sha256}-strip",
        name=file_name(job, "jpg"),
    )  # fmt: skip


@router.get("/{job_id}/preview")
def preview(
    farm: Farm,
    request: Request,
    job_id: str,
    epoch: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
    step: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
) -> Response:
    """The latent as it looked after a denoise step; the newest without parameters."""
    job = jobs.get(farm.db, job_id)
    newest = job.progress.preview_step if job.progress else None
    step = newest if step is None else step
    epoch = job.epoch if epoch is None else epoch
    key = None if step is None else Assignment(job.id, epoch, "", job.spec).preview_key(step)
    if key is None or farm.store.size(key) is None:
        raise NotReady(f"job {job.id} has no such preview", "previews appear while it is denoised")
    return stored(
        request, farm.store, key, media_type="image/jpeg", etag=f"{job.id}-{epoch}-{step}",
        name=file_name(job, "jpg"),
    )  # fmt: skip


@router.get("/{job_id}/logs")
def logs(farm: Farm, job_id: str, limit: Annotated[int, Query(ge=1, le=5000)] = 500) -> Json:
    """What the processes of the server's machine wrote about this job; those of render nodes keep their own."""
    job = jobs.get(farm.db, job_id)
    found = [] if farm.log_dir is None else lines_of(farm.log_dir, job.id, limit)
    return {"object": "list", "data": found}


def accept(farm: Services, body: Json, idempotency_key: str | None = None) -> NewJob:
    """The wish of a request, its uploaded image kept. Raises FarmError naming the field that is wrong."""
    wish = new_job(
        with_images_kept(farm, continued(farm, body, finished)),
        farm.models,
        idempotency_key=idempotency_key,
        images=image_sizes(farm),
    )
    return replace(wish, owner=farm.person.name)


def submit_one(farm: Services, wish: NewJob, response: Response) -> Json:
    """Durable once this returns."""
    submitted = jobs.submit(farm.db, [wish])[0]
    if submitted.created:
        farm.poke()
    else:
        response.status_code = 200
    return {**job_json(submitted.job), "hint": hint(submitted.job.spec) or wish.note}


def job_detail(farm: Services, job_id: str) -> Json:
    """One job with its attempts, the seconds per stage of the last one, and why it is where it is."""
    job = jobs.get(farm.db, job_id)
    attempts = [attempt_json(attempt) for attempt in jobs.attempts(farm.db, job.id)]
    place = jobs.position(farm.db, job.id)
    # Only of a job that is still to be stored: the question may have to wait for the answer.
    trouble = None if job.state.final else farm.store_watch.trouble()
    needs = jobs.depends_on(farm.db, job.id)
    hung = next((one.cause for one in _stalled(farm, job) if one.job == job.id), None)
    seen = Surroundings(
        datetime.now(UTC), place or 0, lanes.lanes(farm.db), workers.find(farm.db), quarantines.find(farm.db),
        farm.models.installed, None if trouble is None else Reason("store_away", trouble.message, trouble.next),
        needs, hung,
    )  # fmt: skip
    reason = why(job, seen)
    return {
        **job_json(job),
        "hint": hint(job.spec),
        "depends_on": [dependency_json(one) for one in needs],
        "dependents": [{"job": one, "state": state.value} for one, state in jobs.dependents(farm.db, job.id)],
        "attempts": attempts,
        "timings": attempts[-1]["timings"] if attempts else {},
        "position": place,
        "waiting_because": {"code": reason.code, "sentence": reason.sentence, "help": _sentence(reason.help)},
    }


def _stalled(farm: Services, job: Job) -> list[Stalled]:
    return leases.stalled(farm.db, farm.stall_limits) if job.state is JobState.RUNNING else []


def _sentence(help: str) -> str:
    """It follows a full stop."""
    return help[:1].upper() + help[1:]


def again(farm: Services, job_id: str, changes: Json, idempotency_key: str | None = None) -> NewJob:
    """The wish that would make this job again. A `seed` of None in `changes` draws a new one."""
    job = jobs.get(farm.db, job_id)
    wish: dict[str, Any] = {
        "prompt": job.expanded_prompt or job.spec.prompt,  # an expander need not say the same again
        "model": job.spec.model,
        "size": f"{job.spec.width}x{job.spec.height}",
        "frames": job.spec.frames,
        "steps": job.spec.steps,
        "seed": job.spec.seed,
        "guidance": job.spec.guidance,
        "project": job.project,
        "priority": job.priority,
        "tags": dict(job.tags),
    }
    if job.spec.quality is not None:
        wish["quality"] = job.spec.quality
    if job.spec.ode:
        wish["ode"] = True
    if job.spec.negative_prompt is not None:
        wish["negative_prompt"] = job.spec.negative_prompt
    if job.requires is not None:
        wish["requires"] = {**asdict(job.requires), "tags": list(job.requires.tags)}
    if "seconds" in changes:
        del wish["frames"]
    if any(name in changes for name in (*IMAGE_FIELDS, "continue", "aspect")):
        del wish["size"]  # follows the new image, unless the changes fix it
    if job.spec.image is not None and not any(name in changes for name in (*IMAGE_FIELDS, "continue")):
        wish |= {"image": job.spec.image, "fit": job.spec.fit}
    return accept(farm, {**wish, **changes}, idempotency_key)


def finished(farm: Services, job_id: str) -> tuple[Job, Artifact]:
    """A job that has its video. Raises NotReady saying how far it is."""
    job = jobs.get(farm.db, job_id)
    if job.artifact is None or job.state is not JobState.SUCCEEDED:
        todo = "retry it" if job.state.final else f"wait for it: farm watch {job.id}"
        raise NotReady(f"job {job.id} has no video: it is {job.state.value}", todo)
    if job.video_removed_at is not None:
        raise VideoRemoved(
            f"the video of job {job.id} was removed on {job.video_removed_at:%Y-%m-%d}",
            f"render it again: farm rerun {job.id}",
        )
    return job, job.artifact


def spritesheet(farm: Services, request: Request, job_id: str) -> Response:
    """Every frame side by side, drawn when asked for."""
    import tempfile
    from pathlib import Path

    from farm.media.check import decode
    from farm.media.stills import sheet

    job, artifact = finished(farm, job_id)
    headers = {
        "ETag": f'"{artifact.sha256}-sheet"', "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
    }  # fmt: skip
    if matches(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        with path.open("wb") as file:
            for part in farm.store.open(artifact.key):
                file.write(part)
        png = sheet([decode(path)], [job.spec.prompt], columns=job.spec.frames)
    return Response(png, 200, headers, media_type="image/png")


def parse_states(names: list[str] | None) -> list[JobState] | None:
    """`state=a&state=b` or `state=a,b`."""
    if not names or names == [""]:
        return None
    states = {state.value: state for state in JobState}
    wanted = [name for part in names for name in part.split(",") if name]
    if strange := next((name for name in wanted if name not in states), None):
        raise InvalidRequest(f"no state is called {quote(strange)}", f"choose from: {', '.join(states)}", "state")
    return [states[name] for name in wanted]


def parse_tag(text: str | None) -> tuple[str, str] | None:
    """`key=value`; None and "" are no filter."""
    if not text:
        return None
    key, between, value = text.partition("=")
    if not between:
        raise InvalidRequest(f"a tag looks like shot=12a, not {quote(text)}", "give its name and its value", "tag")
    return key, value


def _move(farm: Services, transition: Callable[[Database, str], Job], job_id: str) -> Json:
    job = transition(farm.db, job_id)
    farm.poke()
    return job_json(job)
