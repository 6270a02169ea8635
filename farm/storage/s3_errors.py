"""What an S3 server's refusal, or its silence, means to a person: one sentence each, and what to do."""

from collections.abc import Mapping
from typing import Any, cast

from botocore.exceptions import (  # pyright: ignore[reportMissingTypeStubs]
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
    SSLError,
)

from farm.domain.address import shown
from farm.domain.errors import FarmError, StorageRefused, StorageUnavailable
from farm.storage.s3_address import S3Address

_SILENT = (
    EndpointConnectionError, ConnectTimeoutError, ReadTimeoutError, ConnectionClosedError, IncompleteReadError,
    ResponseStreamingError,
)  # fmt: skip
_AGAIN = "it is tried again by itself"
_WRONG_KEY = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "TokenRefreshRequired"}
_WRONG_REGION = {"AuthorizationHeaderMalformed", "PermanentRedirect", "301", "IllegalLocationConstraintException"}
_FULL = {"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "EntityTooLarge"}


def code_of(error: ClientError) -> str:
    """The server's word for it, or the HTTP status where it had none."""
    return _said(error, "Code")


def meaning(error: ClientError | BotoCoreError, address: S3Address) -> FarmError:
    at = shown(address.endpoint) if address.endpoint else "Amazon S3"
    if isinstance(error, ClientError):
        return _refusal(error, address, at)
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return StorageRefused(
            f"there are no credentials for {at}", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if isinstance(error, SSLError):
        return StorageRefused(
            f"the certificate of {at} is not accepted",
            "correct the endpoint, or name its authority in AWS_CA_BUNDLE",
        )
    if isinstance(error, _SILENT):
        return StorageUnavailable(
            f"the store at {at} does not answer", f"start it, or correct the endpoint; {_AGAIN}"
        )
    return StorageUnavailable(f"the store at {at} cannot be used: {type(error).__name__}: {error}", _AGAIN)


def _refusal(error: ClientError, address: S3Address, at: str) -> FarmError:
    code, said = code_of(error), _said(error, "Message") or "no reason given"
    if code == "NoSuchBucket":
        place = f" --endpoint-url {at}" if address.endpoint else ""
        return StorageRefused(
            f"there is no bucket {address.bucket!r} at {at}",
            f"make it: aws s3 mb s3://{address.bucket}{place}; or correct FARM_STORE",
        )
    if code in _WRONG_KEY:
        return StorageRefused(
            f"{at} refuses the farm's key ({code})", "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if code == "RequestTimeTooSkewed":
        return StorageRefused(
            f"the clocks of this machine and of {at} differ", "set the clock: timedatectl set-ntp on"
        )
    if code in _WRONG_REGION:
        return StorageRefused(
            f"the bucket {address.bucket!r} is in another region: {said}", "add &region=... to FARM_STORE"
        )
    if code in {"AccessDenied", "403"}:
        return StorageRefused(
            f"{at} does not let the farm's key use the bucket {address.bucket!r}",
            "allow s3:GetObject, PutObject, DeleteObject, ListBucket and AbortMultipartUpload",
        )
    if code in _FULL:
        return StorageUnavailable(f"the store at {at} is full: {said}", "make room there; nothing was half-written")
    if code == "BadDigest":
        return StorageUnavailable(f"{at} received other bytes than were sent", "it is uploaded again")
    return StorageUnavailable(f"the store at {at} answers {code or 'with an error'}: {said}", _AGAIN)


def _said(error: ClientError, what: str) -> str:
    answer = cast(Mapping[str, Any], error.response)
    return str(answer.get("Error", {}).get(what, ""))
