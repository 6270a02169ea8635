"""`farm inspect`: what a video is and says about itself, read here without a decoder; its checksum verified."""

import hashlib
import io
import sys
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import click

from farm.cli import output
from farm.cli.client import Client, Json
from farm.domain.errors import Exit, InvalidRequest
from farm.domain.provenance import Provenance, read_back
from farm.media.mp4 import Mp4, read_mp4

HEAD = 1 << 20  # what a video says about itself stands in front of its pictures


@click.command()
@click.argument("what", metavar="FILE|JOB")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def inspect(what: str, as_json: bool) -> None:
    """How FILE (or the video of JOB) was made, and whether it is whole; exits 1 if it is not.

    A checksum in FILE.sha256 is verified.
    """
    path = Path(what)
    found = _of_file(path) if path.exists() or path.suffix else _of_job(what)
    output.record(found) if as_json else _tell(found)
    if found["problems"]:
        sys.exit(Exit.FAILED)


def provenance_of(path: Path) -> Provenance:
    """How the file was made. Raises InvalidRequest where it cannot be read or does not tell."""
    with _open(path) as file:
        told = read_back(read_mp4(file).tags)
    if told is None:
        raise InvalidRequest(
            f"{path} does not say how it was made", "give a video of a farm, not a re-encoded one", "file"
        )
    return told


def _of_file(path: Path) -> Json:
    with _open(path) as file:
        video = read_mp4(file)
        size = file.seek(0, 2)
        file.seek(0)
        sha256 = _sha256(file)
    return {"file": str(path), "bytes": size, "sha256": sha256, **_told(video, _sidecar(path, sha256))}


def _of_job(job_id: str) -> Json:
    client = Client()
    job = client.job(job_id)
    head = io.BytesIO()
    client.save(f"/api/jobs/{quote(job['id'])}/content", head, first=HEAD)
    artifact: Json = job["artifact"]
    told = _told(read_mp4(head), None)
    # Only its head was fetched: what is missing behind it says nothing.
    told["problems"] = [problem for problem in told["problems"] if "cut short" not in problem]
    if told["job"] not in {None, job["id"]}:
        told["problems"].append(f"it says that it is of {told['job']}")
    return {"file": None, "bytes": artifact["bytes"], "sha256": artifact["sha256"], **told}


def _told(video: Mp4, sidecar: bool | None) -> Json:
    track, told = video.video, read_back(video.tags)
    problems = [] if video.missing == 0 else [f"the file is cut short: {video.missing} bytes are missing"]
    if track is None:
        problems.append("it has no picture")
    if sidecar is False:
        problems.append("its checksum is not the one in its .sha256 file: it was changed or damaged")
    frames = track.frames if track else 0
    return {
        "seconds": round(video.seconds, 3),
        "width": track.width if track else 0,
        "height": track.height if track else 0,
        "frames": frames,
        "fps": round(frames / video.seconds, 3) if video.seconds else 0,
        "codec": track.codec if track else None,
        "sound": video.has_sound,
        "faststart": video.faststart,
        "sidecar": None if sidecar is None else "matches" if sidecar else "differs",
        "job": told.job if told else None,
        "version": told.version if told else None,
        "settings": dict(told.settings) if told else None,
        "expanded_prompt": told.expanded_prompt if told else None,
        "label": dict(told.label) if told else None,
        "problems": problems,
    }


def _tell(found: Json) -> None:
    rate = f" at {found['fps']:g} a second" if found["fps"] else ""
    output.data(f"video     {found['width']}x{found['height']}, {found['frames']} frames{rate}, {found['codec']}")
    output.data(f"file      {output.size(found['bytes'])}, sha256 {found['sha256']}")
    if found["sidecar"] == "matches":
        output.data("checksum  as in its .sha256 file")
    output.data(
        "sound     none, by design: the models make pictures only" if not found["sound"] else "sound     yes"
    )
    settings = found["settings"]
    if settings is None:
        output.data("made by   not told in the file")
    else:
        output.data(f"prompt    {settings['prompt']}")
        if found["expanded_prompt"]:
            output.data(f"expanded  {found['expanded_prompt']}")
        sampling = [f"{name} {settings[name]}" for name in ("steps", "seed", "guidance") if name in settings]
        output.data(f"model     {settings.get('model')}, {', '.join(sampling)}")
        if settings.get("image"):
            output.data(f"image     {settings['image']}")
        output.data(f"made by   turbofarm {found['version']}, {found['job']}")
    if found["label"]:
        output.data(f"label     AIGC {found['label'].get('Label')}, {found['label'].get('ContentProducer')}")
    for problem in found["problems"]:
        output.note(problem)


def _sidecar(path: Path, sha256: str) -> bool | None:
    """Whether FILE.sha256 names this checksum; None: there is none."""
    try:
        words = path.with_name(f"{path.name}.sha256").read_text("utf-8", "replace").split()
    except FileNotFoundError:
        return None
    return bool(words) and words[0].lower() == sha256


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}", "check the path", "file") from None
