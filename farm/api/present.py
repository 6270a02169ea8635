"""How a job, an attempt and a worker look from outside: plain JSON. Both the API and the page read these."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from farm.domain.job import Attempt, Dependency, Job, JobSpec, NewJob, Progress
from farm.domain.person import Token
from farm.domain.shape import seconds_of
from farm.domain.states import JobState, StageName
from farm.domain.usage import Usage
from farm.domain.worker import Node, Quarantine, Worker
from farm.scheduling.lanes import LaneView

Json = dict[str, Any]

# Where each stage begins on a bar of 100, as seen on the demo model and the 1.3B one; denoise fills 8 to 85.
_STAGE_START = {
    StageName.LOADING: 2,
    StageName.TEXT: 5,
    StageName.IMAGE: 7,
    StageName.DENOISE: 8,
    StageName.DECODE: 86,
    StageName.ENCODE: 94,
    StageName.UPLOAD: 98,
}

_V1_STATUS = {
    JobState.RUNNING: "in_progress",
    JobState.SUCCEEDED: "completed",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "failed",
}


def job_json(job: Job) -> Json:
    """Everything about a job that one row of `jobs` and its lease tell."""
    spec = job.spec
    return {
        "id": job.id,
        "object": "job",
        "state": job.state.value,
        "prompt": spec.prompt,
        "kind": spec.kind,
        "model": spec.model,
        "model_digest": spec.model_digest,
        "size": f"{spec.width}x{spec.height}",
        "width": spec.width,
        "height": spec.height,
        "frames": spec.frames,
        "fps": spec.fps,
        "seconds": round(spec.frames / spec.fps, 3),
        "steps": spec.steps,
        "seed": spec.seed,
        "guidance": spec.guidance,
        "quality": spec.quality,
        "ode": spec.ode,
        "expand": spec.expand,
        "negative_prompt": spec.negative_prompt,
        "image": image_json(spec),
        "owner": job.owner,
        "project": job.project,
        "batch": job.batch,
        "lane": job.lane,
        "priority": job.priority,
        "epoch": job.epoch,
        "failures": job.failures,
        "tags": dict(job.tags),
        "idempotency_key": job.idempotency_key,
        "created_at": when(job.created_at),
        "updated_at": when(job.updated_at),
        "started_at": when(job.started_at),
        "finished_at": when(job.finished_at),
        "not_before": when(job.not_before),
        "requires": None if job.requires is None else {**asdict(job.requires), "tags": list(job.requires.tags)},
        "expanded_prompt": job.expanded_prompt,
        "memory_plan": job.memory_plan,
        "avoid": list(job.avoid),
        "rest_until": when(job.rest_until),
        "cancel_requested": job.cancel_requested_at is not None and not job.state.final,
        "progress": progress_json(job) if job.progress and not job.state.final else None,
        "percent": percent(job),
        "artifact": artifact_json(job),
        "video_removed_at": when(job.video_removed_at),
        "error": error_json(job),
    }


def wish_json(wish: NewJob) -> Json:
    """What would be rendered, of a job that is not submitted."""
    spec = wish.spec
    return {
        "object": "dry_run",
        "prompt": spec.prompt,
        "kind": spec.kind,
        "model": spec.model,
        "model_digest": spec.model_digest,
        "size": f"{spec.width}x{spec.height}",
        "frames": spec.frames,
        "fps": spec.fps,
        "seconds": round(spec.frames / spec.fps, 3),
        "steps": spec.steps,
        "seed": spec.seed,
        "guidance": spec.guidance,
        "quality": spec.quality,
        "ode": spec.ode,
        "expand": spec.expand,
        "negative_prompt": spec.negative_prompt,
        "image": image_json(spec),
        "project": wish.project,
        "priority": wish.priority,
        "hold": wish.hold,
        "tags": dict(wish.tags),
        "not_before": when(wish.not_before),
    }


def image_json(spec: JobSpec) -> Json | None:
    """The first frame of an image-to-video job."""
    if spec.image is None:
        return None
    url = image_url(spec.image)
    return {"digest": spec.image, "fit": spec.fit, "url": url, "thumbnail_url": f"{url}/thumbnail"}


def image_url(digest: str) -> str:
    return f"/api/images/{digest}"


def progress_json(job: Job) -> Json | None:
    if job.progress is None:
        return None
    now = job.progress
    return {
        "stage": now.stage.value,
        "k": now.k,
        "n": now.n,
        "worker": now.worker,
        "preview_step": now.preview_step,
        "preview_url": None if now.preview_step is None else preview_url(job.id, job.epoch, now.preview_step),
    }


def preview_url(job: str, epoch: int, step: int) -> str:
    return f"/api/jobs/{job}/preview?epoch={epoch}&step={step}"


def artifact_json(job: Job) -> Json | None:
    if job.artifact is None or job.state is not JobState.SUCCEEDED or job.video_removed_at is not None:
        return None
    return {
        "url": f"/api/jobs/{job.id}/content",
        "poster_url": f"/api/jobs/{job.id}/thumbnail",
        "thumbnail_url": f"/api/jobs/{job.id}/thumbnail?small=true",
        "strip_url": f"/api/jobs/{job.id}/strip",
        "sha256": job.artifact.sha256,
        "bytes": job.artifact.bytes,
        "frames": job.artifact.frames,
        "seconds": round(job.artifact.seconds, 3),
    }


def error_json(job: Job) -> Json | None:
    if job.error is None:
        return None
    return {"code": job.error.code, "message": job.error.message, "next": job.error.next}


def attempt_json(attempt: Attempt) -> Json:
    return {
        "epoch": attempt.epoch,
        "worker": attempt.worker,
        "gpu": attempt.gpu,
        "outcome": None if attempt.outcome is None else attempt.outcome.value,
        "blamed": attempt.blamed,
        "timings": {stage: round(seconds, 3) for stage, seconds in attempt.timings.items()},
        "peak_memory": attempt.peak_memory,
        "cause": attempt.cause,
        "claimed_at": when(attempt.claimed_at),
        "started_at": when(attempt.started_at),
        "finished_at": when(attempt.finished_at),
    }


def dependency_json(needs: Dependency) -> Json:
    return {
        "job": needs.needs,
        "after": needs.after.value,
        "state": None if needs.state is None else needs.state.value,
        "met": needs.met,
    }


def worker_json(
    worker: Worker, jobs: Sequence[Job] = (), quarantine: Quarantine | None = None, now: datetime | None = None
) -> Json:
    """`jobs`: the active ones, of which this worker's is named. `quarantine`: of its GPU, if it is in one."""
    job = next((j for j in jobs if j.progress is not None and j.progress.worker == worker.id), None)
    at = None if job is None else job.progress
    names = {digest: name for name, digest in (worker.available or {}).items()}
    return {
        "id": worker.id,
        "node": worker.node,
        "gpu": worker.gpu,
        "device": worker.device_name,
        "pid": worker.pid,
        "models": list(worker.models),
        "resident": [names.get(digest, digest[:12]) for digest in worker.models],
        "available": dict(worker.available or {}),
        "tags": list(worker.tags),
        "pool": worker.pool,
        "wish": worker.wish.value,
        "wish_now": worker.wish_now,
        "wish_of_node": worker.wish_of_node,
        "wish_at": when(worker.wish_at),
        "wish_by": worker.wish_by,
        "wish_reason": worker.wish_reason,
        "quarantine": None if quarantine is None else quarantine_json(quarantine),
        "state": worker.state,
        "job": None if job is None else job.id,
        "stage": None if at is None else {"stage": at.stage.value, "k": at.k, "n": at.n},
        "started_at": when(worker.started_at),
        "heartbeat_at": when(worker.heartbeat_at),
        "heartbeat_age": None if now is None else round(max((now - worker.heartbeat_at).total_seconds(), 0.0), 1),
        "jobs_done": worker.jobs_done,
        "memory": worker.memory,
        "memory_total": worker.memory_total,
        "load": None if worker.load is None else asdict(worker.load),
    }


def node_json(node: Node) -> Json:
    return {
        "node": node.node,
        "wish": node.wish.value,
        "wish_now": node.wish_now,
        "wish_at": when(node.wish_at),
        "wish_by": node.wish_by,
        "wish_reason": node.wish_reason,
        "heartbeat_at": when(node.heartbeat_at),
    }


def quarantine_json(one: Quarantine) -> Json:
    """`until` null: only a person ends it; else a probe decides, from then on."""
    return {
        "gpu": one.gpu,
        "node": one.node,
        "reason": one.reason,
        "by": one.by,
        "since": when(one.since),
        "until": when(one.until),
        "times": one.times,
        "probes": one.probes,
        "last_probe_at": when(one.last_probe_at),
        "last_probe": one.last_probe,
    }


def lane_json(lane: LaneView) -> Json:
    return {
        "object": "lane",
        "id": lane.id,
        "class": lane.cls,
        "model": lane.model,
        "weight": lane.weight,
        "virtual_time": round(lane.virtual_time, 3),
        "waiting": lane.waiting,
        "running": lane.running,
        "closed_reason": lane.closed_reason,
        "open_until": when(lane.open_until),
    }


def usage_json(one: Usage) -> Json:
    return {
        "owner": one.owner,
        "project": one.project,
        "videos": one.videos,
        "attempts": one.attempts,
        "gpu_seconds": round(one.gpu_seconds, 1),
    }


def token_json(one: Token) -> Json:
    """Never its digest: who reads a list has no use for it."""
    return {
        "object": "token",
        "prefix": one.prefix,
        "name": one.name,
        "role": one.role.value,
        "created_at": when(one.created_at),
        "created_by": one.created_by,
        "expires_at": when(one.expires_at),
        "last_used_at": when(one.last_used_at),
        "revoked_at": when(one.revoked_at),
        "revoked_by": one.revoked_by,
    }


def video_json(job: Job) -> Json:
    """The shape that clients of OpenAI's video API know; they stop polling on any other status word."""
    cancelled = {"code": "cancelled", "message": job.error.message if job.error else "the job was cancelled"}
    failed = {"code": job.error.code, "message": job.error.message} if job.error else None
    return {
        "id": job.id,
        "object": "video",
        "status": _V1_STATUS.get(job.state, "queued"),
        "progress": percent(job),
        "created_at": int(job.created_at.timestamp()),
        "completed_at": int(job.finished_at.timestamp())
        if job.finished_at and job.state is JobState.SUCCEEDED
        else None,
        "expires_at": None,
        "error": cancelled if job.state is JobState.CANCELLED else failed,
        "model": job.spec.model,
        "prompt": job.spec.prompt,
        "seconds": seconds_of(job.spec),
        "size": f"{job.spec.width}x{job.spec.height}",
        "remixed_from_video_id": None,
    }


def percent(job: Job) -> int:
    """0-100 for a bar; only a succeeded job is at 100."""
    if job.state is JobState.SUCCEEDED:
        return 100
    return 0 if job.progress is None or job.state.final else stage_percent(job.progress)


def stage_percent(progress: Progress) -> int:
    start = _STAGE_START[progress.stage]
    if progress.stage is StageName.DENOISE and progress.n:
        return start + round((85 - start) * min(progress.k, progress.n) / progress.n)
    return start


def when(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
