"""`farm download`: videos on this disk, whole or not at all; what a cut connection left is gone on with."""

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import click

from farm.cli import output
from farm.cli.client import Client, Json, Refused
from farm.cli.filenames import fill, reachable, safe_name
from farm.domain.errors import BrokenVideo, DiskFull, FarmUnreachable, FolderUnusable, InvalidRequest

VARIANTS = {"players": "mp4", "prores": "mov", "png": "zip"}
TRIES = 5  # in a row that bring nothing new


@click.command()
@click.argument("job_ids", metavar="JOB...", nargs=-1, required=True)
@click.option(
    "-o", "--output", "target", metavar="PATH",
    help="File, folder or pattern, like shots/{prompt}_{seed}.mp4; default: JOB.mp4 here.",
)  # fmt: skip
@click.option(
    "--for", "variant", type=click.Choice(list(VARIANTS)),
    help="For old players (H.264 baseline), as ProRes 422 HQ, or as a folder of numbered PNGs.",
)  # fmt: skip
@click.option("--transcode", is_flag=True, help="The same as --for players.")
@click.option("--fps", type=int, help="Another frame rate, like 24 or 25; it lasts as long as before.")
@click.option(
    "--conform", is_flag=True, help="With --fps: show every frame once, so that it lasts longer or shorter."
)
@click.option("--poster", is_flag=True, help="The middle frame as JPEG instead.")
@click.option("--strip", is_flag=True, help="Eight frames side by side as JPEG instead.")
@click.option("--checksum", is_flag=True, help="Write FILE.sha256 beside it, as sha256sum does.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def download(
    job_ids: tuple[str, ...],
    target: str | None,
    variant: str | None,
    transcode: bool,
    fps: int | None,
    conform: bool,
    poster: bool,
    strip: bool,
    checksum: bool,
    as_json: bool,
) -> None:
    """Save the videos of JOBs; prints the paths.

    \b
    A pattern knows {id} {prompt} {seed} {model} {size} {project} {batch} and {n}, the number of the job
    in this command; {seed:010} pads with zeros.
    """
    variant = variant or ("players" if transcode else None)
    if sum((poster, strip, variant is not None or fps is not None)) > 1:
        raise InvalidRequest("a poster or a strip is one picture", "download it without --for and --fps", "for")
    if conform and fps is None:
        raise InvalidRequest("--conform needs the frame rate to conform to", "add --fps 24", "fps")
    client = Client()
    extension = "jpg" if poster or strip else VARIANTS.get(variant or "", "mp4")
    jobs = [client.job(job_id) for job_id in job_ids]
    paths = name_files(jobs, target, "" if extension == "zip" else f".{extension}")
    for job, path in zip(jobs, paths, strict=True):
        where = f"/api/jobs/{quote(job['id'])}"
        if poster or strip:
            _save_made(client, f"{where}/{'thumbnail' if poster else 'strip'}", {}, path)
        elif variant == "png":
            _save_pictures(client, where, _query(variant, fps, conform), path)
        elif variant is not None or (fps is not None and fps != job["fps"]):
            _save_made(client, f"{where}/content", _query(variant or "video", fps, conform), path)
        else:
            save(client, job, path)
        if checksum and not path.is_dir():
            _write_checksum(path)
        if as_json:
            size = path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.iterdir())
            output.record({"id": job["id"], "path": str(path), "bytes": size})
        else:
            output.data(str(path))


def name_files(jobs: list[Json], target: str | None, extension: str) -> list[Path]:
    """A path for each job. Raises InvalidRequest where two would have the same."""
    paths: list[Path] = []
    for number, job in enumerate(jobs, start=1):
        values: dict[str, object] = {
            "id": job["id"], "prompt": job["prompt"], "seed": job["seed"], "model": job["model"],
            "size": job["size"], "project": job["project"], "batch": job["batch"] or "single", "n": number,
        }  # fmt: skip
        wanted = Path(fill(target, values)) if target is not None else Path(".")
        if wanted.is_dir() or (target or "").endswith(("/", os.sep)):
            wanted = wanted / f"{job['id']}{extension}"
        elif "{" in (target or ""):
            wanted = wanted.with_name(safe_name(wanted.name))
        paths.append(reachable(wanted))
    if len({os.path.normcase(path) for path in paths}) < len(paths):
        raise InvalidRequest(
            f"{len(jobs)} videos would go into fewer files", "name them by {id}, {seed} or {n}", "output"
        )
    return paths


def save(client: Client, job: Json, target: Path) -> Path:
    """The video as it was made. Writes beside the target first: a file with its name is always complete."""
    path = target / f"{job['id']}.mp4" if target.is_dir() else target
    sha256: str = job["artifact"]["sha256"] if job["artifact"] else ""
    part = path.with_name(f".{path.name}.{sha256[:12]}.part")
    try:
        with _folder_of(path), part.open("a+b") as file, _alone(file, path):
            _fetch(client, f"/api/jobs/{quote(job['id'])}/content", file, sha256)
            file.flush()
            os.fsync(file.fileno())
            found = _sha256(file)
    except (Refused, FarmUnreachable) as error:  # closed by now: an open file cannot be removed everywhere
        kept = part.stat().st_size
        if kept and isinstance(error, FarmUnreachable):
            error.next = f"the same command goes on after the {output.size(kept)} that are here; {error.next}"
        else:
            part.unlink()
        raise
    with _folder_of(path):
        if found != sha256:
            part.unlink(missing_ok=True)
            raise BrokenVideo(f"what arrived for {path} is not the video that was made", "download it again")
        os.replace(part, path)
    return path


def _fetch(client: Client, where: str, file: BinaryIO, etag: str) -> None:
    """As often as each try brings something new. Raises FarmError."""
    vain = 0
    while True:
        before = file.seek(0, 2)
        try:
            return client.save(where, file, etag=etag)
        except FarmUnreachable:
            vain = 0 if file.seek(0, 2) > before else vain + 1
            if (not before and vain) or vain >= TRIES:
                raise


def _save_made(client: Client, where: str, query: Mapping[str, Any], path: Path) -> None:
    """A file that is made for this request alone: there is nothing to go on with."""
    with _folder_of(path):
        handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w+b") as file:
                client.save(where, file, **query)
            os.chmod(scratch, 0o644)
            os.replace(scratch, path)
        finally:
            Path(scratch).unlink(missing_ok=True)


def _save_pictures(client: Client, where: str, query: Mapping[str, Any], folder: Path) -> None:
    """The numbered pictures, in a folder that appears when it is complete."""
    with _folder_of(folder):
        if folder.exists():
            raise InvalidRequest(f"{folder} is there already", "remove it, or choose another with -o", "output")
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
            archive, pictures = Path(scratch) / "frames.zip", Path(scratch) / "frames"
            with archive.open("w+b") as file:
                client.save(f"{where}/content", file, **query)
            pictures.mkdir()
            with zipfile.ZipFile(archive) as frames:
                for member in frames.infolist():  # by their last names only: an archive may say "../"
                    (pictures / Path(member.filename).name).write_bytes(frames.read(member))
            os.replace(pictures, folder)


def _query(variant: str, fps: int | None, conform: bool) -> dict[str, Any]:
    return {"variant": variant, "fps": fps, "conform": "true" if conform else None}


def _write_checksum(path: Path) -> None:
    with path.open("rb") as file, _folder_of(path):
        line = f"{_sha256(file)}  {path.name}\n".encode()
        path.with_name(f"{path.name}.sha256").write_bytes(line)


def _sha256(file: BinaryIO) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _alone(file: BinaryIO, path: Path) -> Generator[None]:
    """Two commands that wrote the same part would mix their bytes."""
    with suppress(ImportError):  # Windows opens a file for one writer only
        import fcntl

        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderUnusable(f"{path} is being downloaded already", "wait for that, or choose -o") from None
    yield


@contextmanager
def _folder_of(path: Path) -> Generator[None]:
    """What the disk refuses, in words."""
    try:
        yield
    except OSError as error:
        if path.parent.is_dir() and os.access(path.parent, os.W_OK):
            raise DiskFull(f"{path} cannot be written: {error.strerror}", "free some space, or choose -o") from None
        raise FolderUnusable(
            f"{path.parent} cannot be written: {error.strerror}", "choose another with -o"
        ) from None
