"""A store in an S3 bucket: s3://bucket/prefix?endpoint=https://host:port&region=...&style=path|virtual.

Credentials come from the usual chain (AWS_* variables, profile, instance role), never from the address.
Nothing here relies on conditional writes: many servers ignore them.
"""

import base64
import hashlib
import mimetypes
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import boto3  # pyright: ignore[reportMissingTypeStubs]
from botocore.config import Config  # pyright: ignore[reportMissingTypeStubs]
from botocore.exceptions import (  # pyright: ignore[reportMissingTypeStubs]
    BotoCoreError,
    ClientError,
)

from farm.domain.errors import ObjectNotFound, StorageUnavailable
from farm.storage.keys import check_key
from farm.storage.listing import Stored, Unfinished
from farm.storage.s3_address import S3Address
from farm.storage.s3_errors import code_of, meaning

PART = 16 * 2**20  # bytes of a part; the smallest that servers accept is 5 MiB
_MOST_PARTS = 9_000  # of 10,000
CHUNK = 256 * 1024
_RESUMES = 3  # times that a download goes on where its connection broke
_ABANDON_AFTER = (0.0, 0.2, 1.0)  # seconds before each time that a failed upload is given up
_BATCH = 1000  # keys in one request to delete
_UPLOAD = "?uploadId="  # between key and number of an upload in parts, as in its own address

# Checksums are our own, below; the SDK's default ones travel in a form that older servers do not understand.
_COMMON: dict[str, Any] = {
    "signature_version": "s3v4",
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
    "max_pool_connections": 20,
}
_PATIENT: dict[str, Any] = {
    "connect_timeout": 4, "read_timeout": 30, "retries": {"mode": "standard", "total_max_attempts": 3},
}  # fmt: skip
_QUICK: dict[str, Any] = {
    "connect_timeout": 2, "read_timeout": 4, "retries": {"mode": "standard", "total_max_attempts": 1},
}  # fmt: skip


@dataclass(frozen=True)
class _Part:
    """`proven`: the server has said that what it stored is what we sent."""

    number: int
    etag: str
    sha256: str
    proven: bool


class S3Store:
    """Raises InvalidRequest for a wrong address. It asks the server nothing: `check` does."""

    def __init__(self, url: str, credentials: tuple[str, str] | None = None, part: int = PART) -> None:
        """`credentials`: access key and secret, in place of the usual chain."""
        self._address = S3Address.parse(url)
        self._part = part
        self._client = self._connect(credentials, _PATIENT)
        self._quick = self._connect(credentials, _QUICK)
        self.name = self._address.shown

    def check(self) -> None:
        with self._meaning():
            self._ask()

    def put(self, key: str, path: Path, sha256: str) -> None:
        """In one piece or in parts; it exists under its key only once it is whole and has this checksum."""
        name = self._name(key)
        with path.open("rb") as source, self._meaning():
            size = source.seek(0, 2)
            source.seek(0)
            if size <= self._part:
                data = source.read()
                _compare(path, hashlib.sha256(data).hexdigest(), sha256)
                proven = self._put_whole(name, data, sha256)
            else:
                proven = self._put_in_parts(name, source, size, path, sha256)
            self._prove(key, name, size, sha256, proven)

    def put_bytes(self, key: str, data: bytes) -> None:
        name, sha256 = self._name(key), hashlib.sha256(data).hexdigest()
        with self._meaning():
            proven = self._put_whole(name, data, sha256)
            if not proven:
                self._prove(key, name, len(data), sha256, proven)

    def open(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        name = self._name(key)
        with self._meaning():
            if end is not None and end <= start:
                if self._head(name) is None:
                    raise ObjectNotFound(f"there is no {key!r} in the store")
                return iter(())
            first = self._get(key, name, start, end, None)
        return iter(()) if first is None else self._chunks(key, name, start, end, first)

    def size(self, key: str) -> int | None:
        with self._meaning():
            head = self._head(self._name(key))
        return None if head is None else int(head["ContentLength"])

    def url(self, key: str, seconds: float, disposition: str | None = None) -> str | None:
        wanted = {"Bucket": self._address.bucket, "Key": self._name(key)}
        if disposition is not None:
            wanted["ResponseContentDisposition"] = disposition
        with self._meaning():
            return self._client.generate_presigned_url("get_object", Params=wanted, ExpiresIn=max(1, int(seconds)))

    def list(self, prefix: str) -> Iterator[str]:
        for found in self.find(prefix):
            yield found.key

    def find(self, prefix: str) -> Iterator[Stored]:
        with self._meaning():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._address.bucket, Prefix=self._address.prefix + prefix
            )
            for page in pages:
                for found in page.get("Contents", []):
                    key = str(found["Key"]).removeprefix(self._address.prefix)
                    yield Stored(key, int(found["Size"]), found["LastModified"])

    def delete(self, keys: Iterable[str]) -> None:
        names = [self._name(key) for key in keys]
        for first in range(0, len(names), _BATCH):
            batch = [{"Key": name} for name in names[first : first + _BATCH]]
            with self._meaning():
                answer = self._client.delete_objects(
                    Bucket=self._address.bucket, Delete={"Objects": batch, "Quiet": True}
                )
            left = [error for error in answer.get("Errors", []) if error.get("Code") != "NoSuchKey"]
            if left:
                raise StorageUnavailable(
                    f"{self.name} kept {len(left)} of {len(batch)} objects: {left[0].get('Message', '')}",
                    "let the farm's key delete objects (s3:DeleteObject)",
                )

    def unfinished(self) -> Iterator[Unfinished]:
        with self._meaning():
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._address.bucket, Prefix=self._address.prefix
            )
            # All of them first: a page's marker may be an upload that is given up before the next is asked for.
            for upload in [upload for page in pages for upload in page.get("Uploads", [])]:
                name = f"{upload['Key'].removeprefix(self._address.prefix)}{_UPLOAD}{upload['UploadId']}"
                yield Unfinished(name, self._stored_of(upload), upload["Initiated"])

    def give_up(self, uploads: Iterable[Unfinished]) -> None:
        with self._meaning():
            for upload in uploads:
                key, _, number = upload.name.rpartition(_UPLOAD)
                self._abort(self._name(key), number)

    def _stored_of(self, upload: dict[str, Any]) -> int:
        """Bytes of the parts that have arrived; 0 once it has ended."""
        try:
            pages = self._client.get_paginator("list_parts").paginate(
                Bucket=self._address.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
            )
            return sum(int(part["Size"]) for page in pages for part in page.get("Parts", []))
        except ClientError as error:
            if code_of(error) != "NoSuchUpload":
                raise
            return 0

    # -- writing ---------------------------------------------------------------------------------------

    def _put_whole(self, name: str, data: bytes, sha256: str) -> bool:
        answer = self._client.put_object(
            Bucket=self._address.bucket, Key=name, Body=data, ContentType=_type(name),
            ChecksumSHA256=_base64(bytes.fromhex(sha256)), Metadata={"sha256": sha256},
        )  # fmt: skip
        return _proves(answer, data)

    def _put_in_parts(self, name: str, source: BinaryIO, size: int, path: Path, sha256: str) -> bool:
        where = {"Bucket": self._address.bucket, "Key": name}
        upload = self._client.create_multipart_upload(
            **where, ContentType=_type(name), ChecksumAlgorithm="SHA256", Metadata={"sha256": sha256}
        )["UploadId"]
        try:
            seen = hashlib.sha256()
            parts: list[_Part] = []
            # Hashed while sent: what was checked is what was stored.
            while data := source.read(max(self._part, -(-size // _MOST_PARTS))):
                seen.update(data)
                parts.append(self._send(where, upload, len(parts) + 1, data))
            _compare(path, seen.hexdigest(), sha256)
            self._complete(where, upload, parts)
        except BaseException:
            with suppress(BotoCoreError):  # a sweep finds it, and this is not the error to tell of
                self._abandon(where, upload)
            raise
        return all(part.proven for part in parts)

    def _send(self, where: dict[str, str], upload: str, number: int, data: bytes) -> _Part:
        checksum = _base64(hashlib.sha256(data).digest())
        answer = self._client.upload_part(
            **where, UploadId=upload, PartNumber=number, Body=data, ChecksumSHA256=checksum
        )
        return _Part(number, answer["ETag"], checksum, _proves(answer, data))

    def _complete(self, where: dict[str, str], upload: str, parts: Sequence[_Part]) -> None:
        said = [{"PartNumber": p.number, "ETag": p.etag, "ChecksumSHA256": p.sha256} for p in parts]
        try:
            self._client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": said})
        except ClientError as error:
            # A repeated call after a lost answer: the upload is gone because it has become the object. `_prove`
            # looks whether it has.
            if code_of(error) != "NoSuchUpload":
                raise

    def _abandon(self, where: dict[str, str], upload: str) -> None:
        """Until nothing is left of it, or the sweep may have it."""
        # The server's word is no proof: a part that we sent twice, because its answer was late, may still come.
        for pause in _ABANDON_AFTER:
            time.sleep(pause)
            with suppress(ClientError):
                self._abort(where["Key"], upload)
            try:
                self._client.list_parts(**where, UploadId=upload, MaxParts=1)
            except ClientError as error:
                if code_of(error) == "NoSuchUpload":
                    return

    def _abort(self, name: str, upload: str) -> None:
        try:
            self._client.abort_multipart_upload(Bucket=self._address.bucket, Key=name, UploadId=upload)
        except ClientError as error:
            if code_of(error) != "NoSuchUpload":
                raise

    def _prove(self, key: str, name: str, size: int, sha256: str, proven: bool) -> None:
        """What is under the key now is what was sent: by size and our mark, and byte for byte if need be."""
        head = self._head(name)
        if head is None or head["ContentLength"] != size or head["Metadata"].get("sha256") not in {sha256, None}:
            found = "nothing" if head is None else f"{head['ContentLength']} bytes"
            raise StorageUnavailable(
                f"{self.name} has {found} of {key!r} instead of {size} bytes", "it is uploaded again"
            )
        if not proven or head["Metadata"].get("sha256") is None:
            seen = hashlib.sha256()
            for chunk in self.open(key):
                seen.update(chunk)
            if seen.hexdigest() != sha256:
                raise StorageUnavailable(f"{self.name} stored other bytes of {key!r}", "it is uploaded again")

    # -- reading ---------------------------------------------------------------------------------------

    def _head(self, name: str) -> dict[str, Any] | None:
        try:
            return self._client.head_object(Bucket=self._address.bucket, Key=name)
        except ClientError as error:
            # An answer to HEAD has no body and so no reason. Another question tells a missing object from
            # a missing bucket, and a wrong key from a forbidden one.
            if code_of(error) in {"404", "403", "400", "301"}:
                self._ask()
            if code_of(error) in {"404", "NoSuchKey"}:
                return None
            raise

    def _ask(self) -> None:
        self._quick.list_objects_v2(Bucket=self._address.bucket, Prefix=self._address.prefix, MaxKeys=1)

    def _get(self, key: str, name: str, start: int, end: int | None, etag: str | None) -> dict[str, Any] | None:
        """The answer whose body begins at `start`; None: the object ends before."""
        wanted: dict[str, Any] = {"Bucket": self._address.bucket, "Key": name}
        if start or end is not None:
            wanted["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        if etag is not None:
            wanted["IfMatch"] = etag
        try:
            return self._client.get_object(**wanted)
        except ClientError as error:
            if code_of(error) in {"NoSuchKey", "404"}:
                raise ObjectNotFound(f"there is no {key!r} in the store") from error
            if code_of(error) in {"InvalidRange", "416"}:
                return None
            raise

    def _chunks(self, key: str, name: str, start: int, end: int | None, first: dict[str, Any]) -> Iterator[bytes]:
        answer, at = first, start
        until = start + int(first["ContentLength"])
        for left in reversed(range(_RESUMES + 1)):
            try:
                # Not `with body`: that gives the connection below, whose troubles have other names.
                with closing(answer["Body"]) as body:
                    while chunk := body.read(CHUNK):
                        at += len(chunk)
                        yield chunk
            except BotoCoreError as error:
                if not left:
                    raise meaning(error, self._address) from error
            if at >= until:
                return
            # Cut off: on with the rest, of the very same object.
            with self._meaning():
                more = self._get(key, name, at, end, first["ETag"]) if left else None
            if more is None:
                break
            answer = more
        raise StorageUnavailable(f"{self.name} gave {at - start} of {until - start} bytes of {key!r}", "try again")

    # ---------------------------------------------------------------------------------------------------

    def _connect(self, credentials: tuple[str, str] | None, pace: dict[str, Any]) -> Any:
        key, secret = credentials or (None, None)
        address = self._address
        with self._meaning():
            session: Any = boto3.Session()
            return session.client(
                "s3", endpoint_url=address.endpoint, aws_access_key_id=key, aws_secret_access_key=secret,
                region_name=address.region or session.region_name or "us-east-1",
                config=Config(**_COMMON, **pace, s3={"addressing_style": address.style}),
            )  # fmt: skip

    def _name(self, key: str) -> str:
        return self._address.prefix + check_key(key)

    @contextmanager
    def _meaning(self) -> Generator[None]:
        try:
            yield
        except (ClientError, BotoCoreError) as error:
            raise meaning(error, self._address) from error


def _proves(answer: dict[str, Any], data: bytes) -> bool:
    """Whether the server has hashed what it received: it echoes our checksum, or its ETag is the MD5."""
    etag = str(answer.get("ETag", "")).strip('"')
    return bool(answer.get("ChecksumSHA256")) or etag == hashlib.md5(data, usedforsecurity=False).hexdigest()


def _compare(path: Path, found: str, promised: str) -> None:
    if found != promised:
        raise StorageUnavailable(
            f"{path} changed on its way into the store: its checksum is not {promised}", "try again"
        )


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _type(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"
