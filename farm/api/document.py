"""`/api/openapi.json`: the API described for machines. What a route's signature cannot say is in one table here."""

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi

from farm.api.access import Rule, rule_of
from farm.api.present import Json
from farm.api.schemas import SCHEMAS, Schema, ref

router = APIRouter(include_in_schema=False)

VERSION = "1.0.0"
_ABOUT = """One farm: jobs, workers, models, people. Errors have one shape everywhere: a stable `code`, a `message`
for people, and what to do `next`. Times are RFC 3339 under /api and unix seconds under /v1, whose shape is that of
OpenAI's video API. Lists are paged by cursor: `after` takes `next` (or `last_id`) of the page before. Ids may be
given by their beginning. HEAD is answered wherever GET is. With an `Idempotency-Key` nothing happens twice."""

_STATUS = {
    304: "The copy that you have is the newest.",
    307: "The store has it, at this address, for a while.",
    400: "The body is neither JSON nor a form that can be read.",
    401: "You have not signed in, or not with something that is valid.",
    403: "This is not yours to do; or another site's page asks.",
    404: "There is nothing of this name.",
    409: "Not in the state that it is in.",
    410: "The file is no longer in the store.",
    413: "The body is too large.",
    416: "The file has no such range.",
    422: "A field is wrong: `field` names it, `next` says what would do.",
    429: "Too many wrong credentials from your address; wait a minute.",
    503: "Something that the farm stands on is away; nothing is lost.",
    507: "The disk is full.",
}
_HEADERS: Json = {
    name: {"description": said, "schema": {"type": "string"}}
    for name, said in (
        ("ETag", "names these bytes"),
        ("Accept-Ranges", "bytes"),
        ("Content-Disposition", "a file name"),
    )
}


@dataclass(frozen=True)
class Op:
    """`says`: what it does, in a line. `answer`: a schema, or media types of a file. `errors`: its own ones."""

    says: str
    answer: str | tuple[str, ...]
    body: str | None = None
    status: int = 200
    errors: tuple[int, ...] = ()
    also: int | None = None  # another status with the same answer


_SUBMIT = (400, 404, 409, 413, 422, 507)
_CHANGE = (404, 409)
_FILE = (404, 409, 410)
_JPEG, _PNG = ("image/jpeg",), ("image/png",)
_FORMS = ("video/mp4", "video/quicktime", "application/zip")
_ANY_FILE = ("video/mp4", "image/jpeg", "image/png")
_WISH = (400, 404, 409, 413, 422)

OPERATIONS: dict[str, Op] = {
    "POST /v1/videos": Op("Render a video.", "Video", "Wish", errors=_SUBMIT),
    "GET /v1/videos": Op("A page of videos.", "VideoPage", errors=(422,)),
    "GET /v1/videos/{video_id}": Op("One video, and how far it is.", "Video", errors=(404,)),
    "DELETE /v1/videos/{video_id}": Op("Stop it if it runs, and delete it.", "VideoDeleted", errors=_CHANGE),
    "GET /v1/videos/{video_id}/content": Op(
        "The MP4, its poster, or all its frames.", _ANY_FILE, errors=(*_FILE, 422)
    ),
    "POST /api/jobs": Op(
        "Submit a job; durable once this answers.", "SubmittedOrPlan", "Wish", 201, _SUBMIT, also=200
    ),
    "GET /api/jobs": Op("A page of jobs, filtered.", "JobPage", errors=(422,)),
    "GET /api/jobs/{job_id}": Op("One job, its attempts, and why it is where it is.", "JobDetail", errors=(404,)),
    "PATCH /api/jobs/{job_id}": Op("Change priority, or hold and release.", "Job", "JobChange", errors=_WISH),
    "POST /api/jobs/{job_id}/cancel": Op("Take it out of the queue, or stop it.", "Job", errors=_CHANGE),
    "POST /api/jobs/{job_id}/hold": Op("Keep it from starting.", "Job", errors=_CHANGE),
    "POST /api/jobs/{job_id}/release": Op("Let a held job go.", "Job", errors=_CHANGE),
    "POST /api/jobs/{job_id}/retry": Op("The same job once more.", "Job", errors=_CHANGE),
    "POST /api/jobs/{job_id}/front": Op("Before all that wait in its lane.", "Job", errors=_CHANGE),
    "POST /api/jobs/{job_id}/rerun": Op("A new job like it.", "SubmittedJob", "Changes", 201, _SUBMIT, also=200),
    "GET /api/jobs/{job_id}/content": Op(
        "The MP4; or for other players, as ProRes, as PNGs, at another rate.", _FORMS, errors=(*_FILE, 422)
    ),
    "GET /api/jobs/{job_id}/thumbnail": Op("Its poster.", _JPEG, errors=(*_FILE, 422)),
    "GET /api/jobs/{job_id}/strip": Op("Eight of its frames side by side.", _JPEG, errors=_FILE),
    "POST /api/inspect": Op("How a video was made.", "Inspection", "file", errors=(400, 413, 422)),
    "GET /api/jobs/{job_id}/preview": Op("The latent after a denoise step.", _JPEG, errors=(*_FILE, 422)),
    "GET /api/jobs/{job_id}/logs": Op("What was logged about it.", "LogLines", errors=(404, 422)),
    "POST /api/batches": Op("Submit many jobs, all or none.", "Batch", "BatchWish", 201, _SUBMIT, also=200),
    "GET /api/batches/{name}": Op("A batch's state, from its jobs.", "BatchState", errors=(404,)),
    "POST /api/prune": Op(
        "Remove finished jobs and their videos, or say what would go.",
        "Pruned",
        "PruneWish",
        errors=(400, 413, 422),
    ),
    "POST /api/images": Op("Upload a first frame.", "Image", "file", 201, (400, 413, 422, 507)),
    "GET /api/images/{digest}": Op("An uploaded image.", _PNG, errors=(404, 410)),
    "GET /api/images/{digest}/thumbnail": Op("A small one.", _JPEG, errors=(404, 410)),
    "GET /api/workers": Op("Who renders, on what, doing what.", "WorkerList"),
    "GET /api/workers/{worker_id}": Op("One worker.", "Worker", errors=(404,)),
    "POST /api/workers/{worker_id}/wish": Op(
        "Run, drain, restart, quarantine.", "Worker", "WorkerWish", errors=_WISH
    ),
    "GET /api/nodes": Op("The machines.", "NodeList"),
    "POST /api/nodes/{name}/wish": Op(
        "The same for every worker of a machine.", "Node", "WorkerWish", errors=_WISH
    ),
    "GET /api/gpus": Op("The GPUs in quarantine.", "QuarantineList"),
    "POST /api/gpus/{gpu}/quarantine": Op("Set a GPU aside.", "Quarantine", "QuarantineWish", errors=_WISH),
    "POST /api/gpus/{gpu}/release": Op("It is well again.", "Released", "ReleaseWish", errors=_WISH),
    "GET /api/lanes": Op("What waits and runs for whom.", "LaneList"),
    "PATCH /api/lanes/{lane}": Op("Close a lane, or open it.", "Lane", "LaneChange", errors=_WISH),
    "GET /api/usage": Op("GPU time by owner and project.", "UsageList", errors=(422,)),
    "GET /api/models": Op("The models, and what each can do.", "ModelList"),
    "GET /api/me": Op("Who you are here, and what you may.", "Person"),
    "GET /api/tokens": Op("Who may sign in.", "TokenList"),
    "POST /api/tokens": Op("Let somebody in.", "NewToken", "TokenWish", 201, (400, 413, 422)),
    "DELETE /api/tokens/{prefix}": Op("Let nobody in with it any more.", "Token", errors=(404,)),
    "GET /healthz": Op("This process answers.", "Alive"),
    "GET /readyz": Op("A job sent now would be kept and rendered.", "Ready", also=503),
    "GET /api/health": Op("The farm's state, also while its database is away.", "Health"),
    "GET /api/events": Op(
        "What happens, as it happens: server-sent events.", ("text/event-stream",), errors=(422,)
    ),
    "HEAD /api/events": Op("Whether the stream is there.", ("text/event-stream",)),
}


@router.get("/api/openapi.json")
def openapi(request: Request) -> Json:
    return described(request.app)


def described(app: FastAPI) -> Json:
    """The whole document, made once per application."""
    if app.openapi_schema is None:
        made = get_openapi(title="turbofarm", version=VERSION, description=_ABOUT, routes=app.routes)
        for path, methods in made["paths"].items():
            for method, operation in methods.items():
                _complete(f"{method.upper()} {path}", operation)
        made["components"] = {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "farm token create"},
                "password": {"type": "http", "scheme": "basic"},
            },
        }
        app.openapi_schema = made
    return app.openapi_schema


def _complete(name: str, operation: Json) -> None:
    op = OPERATIONS.get(name)
    if op is None:
        return  # as its signature says; a test wants it described
    method, path = name.split(" ", 1)
    anyone = rule_of(method, path) is Rule.ANYONE
    errors = {*op.errors, *(() if anyone else (401, 403, 429, 503))} - {op.also}
    operation["summary"] = op.says
    operation["operationId"] = _id(method, path)
    operation["security"] = [] if anyone else [{"token": []}, {"password": []}, {}]
    for parameter in operation.get("parameters", []):
        parameter["schema"].pop("title", None)
    if op.body == "file":
        operation["requestBody"] = _file_body()
    elif op.body is not None:
        operation["requestBody"] = _json_body(op.body)
    answers = {op.status: _answer(op), **({op.also: _answer(op)} if op.also else {})}
    if not isinstance(op.answer, str) and "text/event-stream" not in op.answer:
        answers |= {206: _answer(op) | {"description": "The range that was asked for."}}
        answers |= {code: {"description": _STATUS[code]} for code in (304, 307)}
        errors.add(416)
    answers |= {code: _refusal(code) for code in errors}
    operation["responses"] = {str(code): answers[code] for code in sorted(answers)}


def _answer(op: Op) -> Json:
    if isinstance(op.answer, str):
        return {"description": op.says, "content": {"application/json": {"schema": ref(op.answer)}}}
    binary: Schema = {"type": "string", "format": "binary"}
    content = {kind: {"schema": {"type": "string"} if kind.startswith("text/") else binary} for kind in op.answer}
    return {"description": op.says, "content": content} | (
        {} if "text/event-stream" in op.answer else {"headers": _HEADERS}
    )


def _refusal(code: int) -> Json:
    return {"description": _STATUS[code], "content": {"application/json": {"schema": ref("Error")}}}


def _json_body(name: str) -> Json:
    content: dict[str, Any] = {"application/json": {"schema": ref(name)}}
    if name == "Wish":
        content["application/json"]["examples"] = {
            "text": {"summary": "text to video", "value": {"prompt": "a large red circle moving up", "seed": 7}},
            "chain": {
                "summary": "after another job, on a card with 40 GB",
                "value": {
                    "prompt": "the same circle, shrinking", "depends_on": ["job_k3v7c2mzq5ta"],
                    "requires": {"memory": "40GB"},
                },
            },
        }  # fmt: skip
        content["multipart/form-data"] = {
            "schema": {
                "type": "object",
                "required": ["prompt"],
                "properties": {
                    "prompt": {"type": "string", "minLength": 1}, "model": {"type": "string"},
                    "size": {"type": "string"}, "seconds": {"type": "string"},
                    "input_reference": {"type": "string", "contentMediaType": "application/octet-stream"},
                },
            }
        }  # fmt: skip
    return {"required": name not in {"Changes", "QuarantineWish", "ReleaseWish"}, "content": content}


def _file_body() -> Json:
    binary: Schema = {"type": "string", "format": "binary"}
    form: Schema = {"type": "object", "properties": {"image": binary}, "required": ["image"]}
    kinds = ("image/png", "image/jpeg", "image/webp", "application/octet-stream")
    content = {kind: {"schema": binary} for kind in kinds} | {"multipart/form-data": {"schema": form}}
    return {"required": True, "content": content}


def _id(method: str, path: str) -> str:
    """Names for generated clients: get_api_jobs_job_id_logs."""
    words = path.replace("{", "").replace("}", "").strip("/").replace("/", "_").replace(".", "_")
    return f"{method.lower()}_{words}"
