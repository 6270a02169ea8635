"""What the API's answers and bodies look like, as JSON Schema; `document` puts them into the OpenAPI document.

An answer may have more fields than are named here, never fewer: clients must not stumble over new ones.
"""

from typing import Any

from farm.domain.fields import FIELDS
from farm.domain.person import Means, Role
from farm.domain.states import FINAL, After, JobState, Outcome, StageName, Wish

Schema = dict[str, Any]


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _list(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def _answer(said: str = "", /, **fields: Schema) -> Schema:
    """All fields are there."""
    return {"type": "object", "description": said, "properties": fields, "required": list(fields)}


def _body(said: str, required: tuple[str, ...] = (), /, **fields: Schema) -> Schema:
    """Other fields are refused."""
    schema: Schema = {"type": "object", "description": said, "properties": fields, "additionalProperties": False}
    return schema | ({"required": list(required)} if required else {})


def _words(words: Any) -> Schema:
    return {"type": "string", "enum": [word.value for word in words]}


def _page(of: str, **more: Schema) -> Schema:
    return _answer(f"A list of {of}.", object={"const": "list"}, data=_list(ref(of)), **more)


TEXT: Schema = {"type": "string"}
INT: Schema = {"type": "integer"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
BOOL: Schema = {"type": "boolean"}
TIME: Schema = {"type": "string", "format": "date-time"}
UNIX: Schema = {"type": "integer", "description": "unix seconds"}
ANY_NUMBER: Schema = {"type": ["number", "string"]}  # forms and shells have only texts
ANY_INTEGER: Schema = {"type": ["integer", "string"]}
COUNTS: Schema = {"type": "object", "additionalProperties": COUNT}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
OBJECT: Schema = {"type": "object"}
JOB_ID: Schema = {"type": "string", "pattern": "^job_[a-z2-7]{12}$", "examples": ["job_k3v7c2mzq5ta"]}

_ERROR = {
    "type": "object",
    "description": "Every refusal: a stable code, one clear message, and what to do next.",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "code": TEXT, "message": TEXT, "next": TEXT, "field": TEXT,
                "rows": _list({"type": "object", "properties": {"row": INT, "code": TEXT, "message": TEXT}}),
            },
            "required": ["code", "message", "next"],
        }
    },
    "required": ["error"],
    "examples": [
        {"error": {"code": "invalid_request", "message": "size 100x96 does not fit: width and height must be"
                   " multiples of 16", "next": "the nearest that does is 192x192", "field": "size"}}
    ],
}  # fmt: skip

_DEPENDENCY = _answer(job=JOB_ID, after=_words(After), state=_or_null(_words(JobState)), met=BOOL)
_ARTIFACT = _answer(url=TEXT, poster_url=TEXT, sha256=TEXT, bytes=COUNT, frames=COUNT, seconds=NUMBER)
_STAGE = _answer(stage=_words(StageName), k=COUNT, n=COUNT)
_IMAGE_OF_JOB = _answer(digest=TEXT, fit=TEXT, url=TEXT, thumbnail_url=TEXT)

_JOB = _answer(
    "One job: what is rendered, where it is, and what became of it.",
    id=JOB_ID, object={"const": "job"}, state=_words(JobState), prompt=TEXT, kind={"enum": ["t2v", "i2v"]},
    model=TEXT, model_digest=TEXT, size=TEXT, width=COUNT, height=COUNT, frames=COUNT, fps=COUNT, seconds=NUMBER,
    steps=COUNT, seed=COUNT, guidance=NUMBER, negative_prompt=_or_null(TEXT), image=_or_null(_IMAGE_OF_JOB),
    owner=TEXT, project=TEXT, batch=_or_null(TEXT), lane=TEXT, priority=INT, epoch=COUNT, failures=COUNT,
    tags=TEXTS, idempotency_key=_or_null(TEXT), created_at=TIME, updated_at=TIME, started_at=_or_null(TIME),
    finished_at=_or_null(TIME), not_before=_or_null(TIME), requires=_or_null(OBJECT),
    expanded_prompt=_or_null(TEXT), memory_plan=COUNT, avoid=_list(TEXT), rest_until=_or_null(TIME),
    cancel_requested=BOOL, progress=_or_null(_STAGE), percent={"type": "integer", "minimum": 0, "maximum": 100},
    artifact=_or_null(_ARTIFACT), video_removed_at=_or_null(TIME),
    error=_or_null(_answer(code=TEXT, message=TEXT, next=TEXT)),
)  # fmt: skip
_ATTEMPT = _answer(
    epoch=COUNT, worker=TEXT, gpu=TEXT, outcome=_or_null(_words(Outcome)), blamed=BOOL,
    timings={"type": "object", "additionalProperties": NUMBER}, peak_memory=_or_null(COUNT), cause=_or_null(TEXT),
    claimed_at=TIME, started_at=_or_null(TIME), finished_at=_or_null(TIME),
)  # fmt: skip
_DETAIL = {
    "allOf": [
        ref("Job"),
        _answer(
            hint=_or_null(TEXT), depends_on=_list(_DEPENDENCY), attempts=_list(ref("Attempt")),
            timings={"type": "object", "additionalProperties": NUMBER}, position=_or_null(COUNT),
            waiting_because=_answer(code=TEXT, sentence=TEXT, help=TEXT),
        ),
    ]
}  # fmt: skip
_SUBMITTED = {"allOf": [ref("Job"), _answer(hint=_or_null(TEXT))]}
_VIDEO = _answer(
    "A job in the shape that clients of OpenAI's video API know.",
    id=JOB_ID, object={"const": "video"}, status={"enum": ["queued", "in_progress", "completed", "failed"]},
    progress={"type": "integer", "minimum": 0, "maximum": 100}, created_at=UNIX, completed_at=_or_null(UNIX),
    expires_at=_or_null(UNIX), error=_or_null(_answer(code=TEXT, message=TEXT)), model=TEXT, prompt=TEXT,
    seconds=TEXT, size=TEXT, remixed_from_video_id=_or_null(TEXT),
)  # fmt: skip
_WISHED: dict[str, Schema] = {
    "wish": _words(Wish), "wish_now": BOOL, "wish_at": _or_null(TIME), "wish_by": _or_null(TEXT),
    "wish_reason": _or_null(TEXT),
}  # fmt: skip
_QUARANTINE = _answer(
    "A GPU on which no job runs. `until` null: only a person ends it.",
    gpu=TEXT, node=TEXT, reason=TEXT, by=TEXT, since=TIME, until=_or_null(TIME), times=COUNT, probes=COUNT,
    last_probe_at=_or_null(TIME), last_probe=_or_null(TEXT),
)  # fmt: skip
_LOAD = _answer(
    "How hard a device works; null: it does not say. Lists are of the last ten minutes, the oldest value first.",
    utilisation=_or_null(COUNT), memory=_or_null(COUNT), temperature=_or_null(INT), power=_or_null(COUNT),
    utilisations=_list(COUNT), temperatures=_list(INT),
)  # fmt: skip
_WORKER = _answer(
    "One process that owns one device.",
    id=TEXT, node=TEXT, gpu=TEXT, device=TEXT, pid=INT, models=_list(TEXT), resident=_list(TEXT), available=TEXTS,
    tags=_list(TEXT), pool=_or_null(TEXT), wish_of_node=BOOL, quarantine=_or_null(ref("Quarantine")),
    state={"enum": ["starting", "probing", "idle", "busy", "gone"]}, job=_or_null(JOB_ID), stage=_or_null(_STAGE),
    started_at=TIME, heartbeat_at=TIME, heartbeat_age=_or_null(NUMBER), jobs_done=COUNT, memory=_or_null(COUNT),
    memory_total=_or_null(COUNT), load=_or_null(ref("Load")), **_WISHED,
)  # fmt: skip
_MODEL = _answer(
    "A model, whether it can be asked for here, and its limits.",
    id=TEXT, object={"const": "model"}, installed=BOOL, default=BOOL, digest=_or_null(TEXT),
    task={"enum": ["t2v", "i2v"]}, distilled=BOOL, size=TEXT, min_side=COUNT, max_side=COUNT, frames=COUNT,
    min_frames=COUNT, max_frames=COUNT, fps=COUNT, steps=COUNT, max_steps=COUNT, guidance=NUMBER,
    negative_prompt=_or_null(TEXT), max_prompt_chars=COUNT, bytes=_or_null(COUNT), workers=COUNT,
)  # fmt: skip
_TOKEN = _answer(
    "Who may sign in with it, never the secret.",
    object={"const": "token"}, prefix=TEXT, name=TEXT, role=_words(Role), created_at=TIME, created_by=TEXT,
    expires_at=_or_null(TIME), last_used_at=_or_null(TIME), revoked_at=_or_null(TIME), revoked_by=_or_null(TEXT),
)  # fmt: skip

SCHEMAS: dict[str, Schema] = {
    "Error": _ERROR,
    "Job": _JOB,
    "SubmittedJob": _SUBMITTED,
    "JobDetail": _DETAIL,
    "Attempt": _ATTEMPT,
    "JobPage": _page("Job", next=_or_null(TEXT), counts=COUNTS),
    "LogLines": _answer(object={"const": "list"}, data=_list(OBJECT)),
    "Video": _VIDEO,
    "VideoPage": _page("Video", first_id=_or_null(TEXT), last_id=_or_null(TEXT), has_more=BOOL),
    "VideoDeleted": _answer(id=JOB_ID, object={"const": "video.deleted"}, deleted={"const": True}),
    "Batch": _answer(
        "What was submitted.", object={"const": "batch"}, name=TEXT, rows=COUNT, created=COUNT, existing=COUNT,
        jobs=_list(JOB_ID),
    ),
    "BatchState": _answer(
        "Derived from its jobs.", object={"const": "batch"}, name=TEXT,
        state={"enum": ["running", "failed", "finished"]}, rows=COUNT, counts=COUNTS,
    ),
    "Pruned": _answer(
        "What would go (`dry_run`: of videos alone, all that fit) or has gone (with what lay beside them, `more`: "
        "ask again). `waited_for`: fit, and stay because unfinished jobs wait for them.",
        object={"const": "prune"}, dry_run=BOOL, jobs=COUNT, bytes=COUNT, oldest=_or_null(TIME),
        newest=_or_null(TIME), waited_for=COUNT, images_kept=_or_null(COUNT), as_of=_or_null(TIME), more=BOOL,
    ),
    "Image": _answer(
        "A first frame; its digest names it in a job.", object={"const": "image"}, digest=TEXT, width=COUNT,
        height=COUNT, bytes=COUNT, url=TEXT, thumbnail_url=TEXT,
    ),
    "Inspection": _answer(
        "What a video says about itself; `settings` is a wish that would make it again.",
        object={"const": "inspection"}, settings=OBJECT, job=TEXT, model=_or_null(TEXT),
        model_digest=_or_null(TEXT), version=TEXT, expanded_prompt=_or_null(TEXT), label=TEXTS,
        video=_answer(seconds=NUMBER, width=COUNT, height=COUNT, frames=COUNT, sound=BOOL),
    ),
    "Plan": _answer(
        "What would be rendered: of a dry run.", object={"const": "dry_run"}, prompt=TEXT, model=TEXT, size=TEXT,
        frames=COUNT, fps=COUNT, seconds=NUMBER, steps=COUNT, seed=COUNT, guidance=NUMBER, hint=_or_null(TEXT),
    ),
    "SubmittedOrPlan": {"anyOf": [ref("SubmittedJob"), ref("Plan")]},
    "Load": _LOAD, "Worker": _WORKER,
    "WorkerList": _page("Worker"),
    "Node": _answer("A machine with workers.", node=TEXT, heartbeat_at=_or_null(TIME), **_WISHED),
    "NodeList": _page("Node"),
    "Quarantine": _QUARANTINE,
    "QuarantineList": _page("Quarantine"),
    "Released": _answer(gpu=TEXT, quarantined={"const": False}, released_by=TEXT),
    "Lane": _answer(
        "The jobs of one owner, project, class and model.", object={"const": "lane"}, id=TEXT,
        model=TEXT, weight=NUMBER, virtual_time=NUMBER, waiting=COUNT, running=COUNT, closed_reason=_or_null(TEXT),
        open_until=_or_null(TIME), **{"class": {"enum": ["interactive", "bulk"]}},
    ),
    "LaneList": _page("Lane"),
    "Usage": _answer(owner=TEXT, project=TEXT, videos=COUNT, attempts=COUNT, gpu_seconds=NUMBER),
    "UsageList": _page("Usage", days=NUMBER),
    "Model": _MODEL,
    "ModelList": _page("Model"),
    "Person": _answer(
        "Whom the farm takes you for.", object={"const": "person"}, name=TEXT, role=_words(Role),
        signed_in_by=_words(Means), may={"type": "object", "additionalProperties": BOOL},
    ),
    "Token": _TOKEN,
    "TokenList": _page("Token"),
    "NewToken": {"allOf": [ref("Token"), _answer(token={"type": "string", "description": "shown this once"})]},
    "Alive": _answer(status={"const": "ok"}),
    "Ready": _answer(status=TEXT, checks=TEXTS),
    "Health": _answer(
        status=TEXT, checks=TEXTS, outage=OBJECT, jobs=COUNTS, workers=_list(ref("Worker")), models=_list(TEXT),
        database=TEXT, store=TEXT,
    ),
    # -- bodies ---------------------------------------------------------------------------------------------------
    "Wish": _body(
        "What is to be rendered. What is left out is decided by the model, and told in the answer.",
        ("prompt",),
        prompt={"type": "string", "minLength": 1, "examples": ["a large red circle moving up"]},
        model={"type": "string", "examples": ["demo-t2v"]},
        size={"type": "string", "examples": ["832x480"]},
        aspect={"type": "string", "description": "instead of size", "examples": ["16:9"]},
        quality={"enum": ["fast", "best"]},
        ode={"type": ["boolean", "string"]},
        expand={"type": ["boolean", "string"], "description": "let the farm's expander make the prompt longer"},
        not_before={"type": "string", "description": "RFC 3339 with a time zone"},
        seconds=ANY_NUMBER | {"description": "instead of frames; the nearest 4k + 1 frames"},
        frames=ANY_INTEGER | {"description": "4k + 1"},
        steps=ANY_INTEGER,
        seed=ANY_INTEGER | {"description": "0 to 2^32 - 1; left out: random, and told"},
        guidance=ANY_NUMBER,
        negative_prompt=TEXT,
        priority=ANY_INTEGER | {"description": "-100 to 100; higher goes first"},
        hold={"type": ["boolean", "string"]},
        project=TEXT,
        tags=TEXTS,
        image={"type": "string", "description": "digest of an uploaded image, or a file of a form"},
        input_reference={"type": "string", "description": "the same, as existing clients call it"},
        fit={"enum": ["crop", "pad", "stretch"]},
        **{"continue": TEXT | {"description": "the job whose last frame is the first of this one"}},
        depends_on={
            "anyOf": [TEXT, _list({"anyOf": [TEXT, _body("", ("job",), job=TEXT, after=_words(After))]})],
            "description": "jobs that must have ended before",
        },
        requires=_body("what a worker must have", tags=_list(TEXT), pool=TEXT, memory=ANY_NUMBER, gpus=INT),
    ),
    "Changes": {"type": "object", "description": "Fields of a wish that are to be other than those of the job."},
    "JobChange": _body("", priority=ANY_INTEGER, hold=BOOL) | {"minProperties": 1},
    "BatchWish": _body(
        "A row is a prompt or a wish.", ("name", "rows"), name={"type": "string", "minLength": 1, "maxLength": 120},
        rows={"type": "array", "minItems": 1, "items": {"anyOf": [TEXT, ref("Wish")]}},
    ),
    "PruneWish": _body(
        "At least one filter. `older_than` in seconds; nothing goes unless `dry_run` is false.",
        older_than=ANY_NUMBER, states=_list(_words(sorted(FINAL))), owner=TEXT, project=TEXT, batch=TEXT,
        tags=TEXTS,
        keep_rows={"type": ["boolean", "string"], "description": "only the videos go, the jobs stay listed"},
        dry_run={"type": ["boolean", "string"]}, limit=ANY_INTEGER,
        as_of={"type": "string", "description": "what ended later stays: give what the dry run said"},
    ),
    "WorkerWish": _body("", ("wish",), wish=_words(Wish), now=BOOL, reason=_or_null(TEXT), by=_or_null(TEXT)),
    "QuarantineWish": _body("", seconds=_or_null(NUMBER), reason=_or_null(TEXT), by=_or_null(TEXT)),
    "ReleaseWish": _body("", reason=_or_null(TEXT), by=_or_null(TEXT)),
    "LaneChange": _body("", ("closed",), closed=BOOL, reason=_or_null(TEXT)),
    "TokenWish": _body(
        "", ("name",), name={"type": "string", "minLength": 1, "maxLength": 60}, role=_words(Role),
        seconds=_or_null({"type": "number", "minimum": 60}), by=_or_null(TEXT),
    ),
}  # fmt: skip

# What this table does not describe yet is taken all the same.
SCHEMAS["Wish"]["properties"] = {name: {} for name in FIELDS} | SCHEMAS["Wish"]["properties"]
