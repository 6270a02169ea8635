"""A bucket as a store: real server, cut connections, wrong keys; what went half way is never seen."""

import contextlib
import hashlib
import os
import select
import socket
import struct
import threading
import urllib.error
import urllib.request

import boto3
import pytest

from farm.domain.errors import InvalidRequest, StorageRefused, StorageUnavailable
from farm.storage import s3 as room
from farm.storage.s3 import S3Store
from farm.storage.store import open_store
from tests.private_servers import private_seaweedfs
from tests.storage.conftest import PART, address, keys

BIG = 2 * PART + 12_345


def read(store, key, *span):
    return b"".join(store.open(key, *span))


def sha(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def big(tmp_path):
    data = os.urandom(BIG)
    path = tmp_path / "big.mp4"
    path.write_bytes(data)
    return path, data


@pytest.fixture
def people(seaweedfs):
    """Somebody with another client."""
    access, secret = keys(seaweedfs)
    return boto3.client(
        "s3", endpoint_url=seaweedfs.server.endpoint, aws_access_key_id=access, aws_secret_access_key=secret,
        region_name="us-east-1",
    )  # fmt: skip


def unfinished(people, prefix):
    """The server is one for many tests, and some leave theirs."""
    found = people.list_multipart_uploads(Bucket="farm", Prefix=prefix)
    return [upload["Key"] for upload in found.get("Uploads", [])]


# -- the way of a video


def test_an_upload_in_parts_leaves_no_trace_when_it_fails(s3, big, people, monkeypatch):
    path, data = big
    sent = []

    def second_fails(where, upload, number, data):
        if number == 2:
            raise room.ClientError({"Error": {"Code": "InternalError", "Message": "disk"}}, "UploadPart")
        sent.append(number)
        return real(where, upload, number, data)

    real = s3._send
    monkeypatch.setattr(s3, "_send", second_fails)
    with pytest.raises(StorageUnavailable, match="InternalError: disk"):
        s3.put("v.mp4", path, sha(data))
    assert sent == [1]
    assert unfinished(people, s3._name("v.mp4")) == []
    assert s3.size("v.mp4") is None


def test_what_was_damaged_on_its_way_is_refused_by_the_server(s3, monkeypatch):
    monkeypatch.setattr(room, "_base64", lambda digest: "A" * 43 + "=")
    with pytest.raises(StorageUnavailable, match="other bytes"):
        s3.put_bytes("v.mp4", b"x")
    assert s3.size("v.mp4") is None


def test_a_server_that_checks_nothing_is_read_back(s3, big, people, monkeypatch):
    """It echoes no checksum, its ETag is no MD5: then only the bytes themselves are proof."""
    path, data = big
    monkeypatch.setattr(room, "_proves", lambda answer, data: False)
    reads, get = [], s3._get
    monkeypatch.setattr(s3, "_get", lambda *a: (reads.append(a[0]), get(*a))[1])
    s3.put("v.mp4", path, sha(data))
    assert reads == ["v.mp4"]

    def store_other_bytes(where, upload, number, data):
        return send(where, upload, number, bytes(len(data)))

    send = s3._send
    monkeypatch.setattr(s3, "_send", store_other_bytes)
    with pytest.raises(StorageUnavailable, match="stored other bytes"):
        s3.put("w.mp4", path, sha(data))


def test_an_object_that_came_out_short_is_no_success(s3, people, monkeypatch, tmp_path):
    path = tmp_path / "v.mp4"
    path.write_bytes(b"whole")
    put = s3._put_whole
    monkeypatch.setattr(s3, "_put_whole", lambda name, data, sha256: put(name, data[:2], sha(data[:2])))
    with pytest.raises(StorageUnavailable, match=r"2 bytes of 'v\.mp4' instead of 5"):
        s3.put("v.mp4", path, sha(b"whole"))


def test_a_completion_whose_answer_was_lost_is_a_success(s3, big, monkeypatch):
    path, data = big
    complete = s3._client.complete_multipart_upload

    def twice(**said):
        complete(**said)
        raise room.ClientError({"Error": {"Code": "NoSuchUpload"}}, "CompleteMultipartUpload")

    monkeypatch.setattr(s3._client, "complete_multipart_upload", twice)
    s3.put("v.mp4", path, sha(data))
    assert read(s3, "v.mp4") == data


class Fails(Exception):
    """What put was about to tell of."""


def fails(*_):
    raise Fails


def test_an_upload_that_stays_when_it_is_given_up_is_given_up_again(s3, big, people, monkeypatch):
    """A server may answer that it is done while one of its parts is still on the way."""
    path, data = big
    monkeypatch.setattr(room, "_ABANDON_AFTER", (0.0,) * 3)
    monkeypatch.setattr(s3, "_complete", fails)
    abort, asked = s3._client.abort_multipart_upload, []

    def late(**said):
        asked.append(said["UploadId"])
        if len(asked) == 1:
            raise room.ClientError({"Error": {"Code": "InternalError"}}, "AbortMultipartUpload")
        if len(asked) == 2:
            return {}  # it is done, they say
        return abort(**said)

    monkeypatch.setattr(s3._client, "abort_multipart_upload", late)
    with pytest.raises(Fails):
        s3.put("v.mp4", path, sha(data))
    assert len(asked) == 3
    assert unfinished(people, s3._name("v.mp4")) == []


def test_an_upload_that_cannot_be_given_up_is_left_to_the_sweep(s3, big, monkeypatch):
    path, data = big
    monkeypatch.setattr(room, "_ABANDON_AFTER", (0.0,) * 3)
    monkeypatch.setattr(s3, "_complete", fails)
    with monkeypatch.context() as broken:
        broken.setattr(s3._client, "abort_multipart_upload", lambda **said: {})
        with pytest.raises(Fails):
            s3.put("v.mp4", path, sha(data))
    (left,) = s3.unfinished()
    assert (left.name.startswith("v.mp4"), left.bytes) == (True, BIG)
    s3.give_up([left])
    assert list(s3.unfinished()) == []


def test_unfinished_uploads_of_this_store_are_found_and_given_up(s3, people):
    name, elsewhere = s3._name("videos/j/1/v.mp4"), s3._name("v").removesuffix("/v") + "-elsewhere/v.mp4"
    for key in (name, elsewhere):
        upload = people.create_multipart_upload(Bucket="farm", Key=key)["UploadId"]
        people.upload_part(Bucket="farm", Key=key, UploadId=upload, PartNumber=1, Body=b"half")
    (found,) = s3.unfinished()
    assert (found.name.startswith("videos/j/1/v.mp4"), found.bytes) == (True, 4)
    s3.give_up([found, found])
    assert unfinished(people, name) == []
    assert unfinished(people, elsewhere) == [elsewhere], "below another prefix: not ours"


def test_two_farms_share_a_bucket_by_their_prefixes(seaweedfs, s3, s3_url):
    other = S3Store(s3_url.replace("?", "/below?"), keys(seaweedfs))
    other.put_bytes("k", b"theirs")
    s3.put_bytes("k", b"ours")
    assert (read(s3, "k"), read(other, "k")) == (b"ours", b"theirs")
    assert list(other.list("")) == ["k"]


# -- an address that anyone may fetch


def test_a_presigned_address_gives_the_video_and_ends(s3):
    data = os.urandom(100_000)
    s3.put_bytes("v.mp4", data)
    url = s3.url("v.mp4", 600, 'attachment; filename="a kite.mp4"')
    assert "X-Amz-Signature=" in url
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == data
        assert answer.headers["Content-Disposition"] == 'attachment; filename="a kite.mp4"'
        assert answer.headers["Content-Type"] == "video/mp4"
    request = urllib.request.Request(url, headers={"Range": "bytes=10-19"})
    with urllib.request.urlopen(request) as answer:
        assert (answer.status, answer.read()) == (206, data[10:20])
    for spoiled in (url.replace("v.mp4", "w.mp4"), url.replace("X-Amz-Expires=600", "X-Amz-Expires=6000")):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(spoiled)
        assert caught.value.code == 403


# -- when it is away, or refuses


class Cutting:
    """A line to the server that breaks after so many bytes of an answer, as often as told."""

    def __init__(self, port: int, after: int, times: int, rudely: bool) -> None:
        self._port, self._after, self.times, self._rudely = port, after, times, rudely
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._port))
            threading.Thread(target=self._pump, args=(near, far, None), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, self._after), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, limit: int | None) -> None:
        sent = 0
        try:
            while True:
                # Never long inside a call: closing a socket that another thread waits in closes nothing yet.
                if not select.select([source], [], [], 0.02)[0]:
                    continue
                data = source.recv(65_536)
                if not data:
                    break
                if limit is not None and self.times and sent + len(data) > limit:
                    self.times -= 1
                    target.sendall(data[: limit - sent])
                    if self._rudely:  # a reset in place of a goodbye
                        target.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        target.close()
                    break
                target.sendall(data)
                sent += len(data)
        except (OSError, ValueError):  # closed by the other direction
            pass
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listening.close()


@pytest.mark.parametrize("rudely", [False, True])
@pytest.mark.parametrize(("times", "whole"), [(2, True), (99, False)])
def test_a_download_goes_on_where_it_broke_or_says_that_it_did(seaweedfs, s3, s3_url, times, whole, rudely):
    data = os.urandom(3_000_000)
    s3.put_bytes("v.mp4", data)
    line = Cutting(seaweedfs.server.ports["s3.port"], 500_000, times, rudely)
    through = S3Store(s3_url.replace(str(seaweedfs.server.ports["s3.port"]), str(line.port)), keys(seaweedfs))
    if whole:
        assert read(through, "v.mp4") == data
        assert read(through, "v.mp4", 1000) == data[1000:]
    else:
        with pytest.raises(StorageUnavailable):
            read(through, "v.mp4")
    line.close()


ACTS = {
    "check": lambda store, path: store.check(),
    "put": lambda store, path: store.put("v.mp4", path, sha(path.read_bytes())),
    "put_bytes": lambda store, path: store.put_bytes("v.mp4", b"x"),
    "open": lambda store, path: store.open("v.mp4"),
    "size": lambda store, path: store.size("v.mp4"),
    "list": lambda store, path: list(store.list("")),
    "delete": lambda store, path: store.delete(["v.mp4"]),
    "sweep": lambda store, path: list(store.unfinished()),
}


@pytest.mark.parametrize("act", ACTS)
def test_every_trouble_has_its_own_sentence(seaweedfs, tmp_path, act):
    path = tmp_path / "v.mp4"
    path.write_bytes(b"x")
    access, secret = keys(seaweedfs)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        nobody = f"s3://farm?endpoint=http://127.0.0.1:{taken.getsockname()[1]}"
        troubles = [
            (address(seaweedfs, "", "nofarm"), (access, secret), StorageRefused, "no bucket 'nofarm'", "make it"),
            (address(seaweedfs, ""), ("nobody", secret), StorageRefused, "refuses the farm's key", "AWS_ACCESS"),
            (address(seaweedfs, ""), (access, "guess"), StorageRefused, "refuses the farm's key", "AWS_SECRET"),
            (nobody, (access, secret), StorageUnavailable, "does not answer", "start it"),
        ]
        for url, credentials, kind, says, helps in troubles:
            with pytest.raises(StorageUnavailable, match=says) as caught:
                ACTS[act](S3Store(url, credentials), path)
            assert type(caught.value) is kind
            assert helps in caught.value.next
            assert secret not in caught.value.message + caught.value.next


def test_without_credentials_it_says_which_variables_to_set(seaweedfs, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StorageRefused, match="no credentials") as caught:
        open_store(address(seaweedfs, "")).check()
    assert "AWS_ACCESS_KEY_ID" in caught.value.next


def test_the_usual_variables_are_enough(seaweedfs, monkeypatch):
    for name, value in seaweedfs.server.credentials.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", seaweedfs.server.endpoint)
    store = open_store("s3://farm/by/variables")
    store.put_bytes("k", b"v")
    assert read(store, "k") == b"v"
    assert store.name == f"s3://farm/by/variables?endpoint={seaweedfs.server.endpoint}"
    store.delete(["k"])


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("s3://key:hushhush@bucket", "name or password"),
        ("s3://bucket?secret=hushhush", "unknown option"),
        ("s3://bucket?endpoint=127.0.0.1:8333", "no http address"),
        ("s3://bucket?endpoint=ftp://a:hushhush@h", "no http address"),
        ("s3://bucket?style=odd", "style 'odd'"),
    ],
)
def test_a_wrong_address_is_refused_without_its_secrets(url, says):
    with pytest.raises(InvalidRequest, match=says) as caught:
        open_store(url)
    assert caught.value.next
    assert "hushhush" not in caught.value.message + caught.value.next


def test_a_kill_in_mid_upload_is_waited_out_and_nothing_half_is_seen(big):
    path, data = big
    with private_seaweedfs() as server:
        go_on(server, path, data)


def go_on(server, path, data):
    store = S3Store(address(server, "p"), keys(server), part=PART)
    store.put("before.mp4", path, sha(data))
    send = store._send

    def killed_at_the_second(where, upload, number, data):
        if number == 2:
            server.kill()
        return send(where, upload, number, data)

    store._send = killed_at_the_second
    with pytest.raises(StorageUnavailable, match="does not answer"):
        store.put("v.mp4", path, sha(data))
    with pytest.raises(StorageUnavailable, match="does not answer"):
        store.check()
    server.start()
    store._send = send
    assert store.size("v.mp4") is None
    assert read(store, "before.mp4") == data, "what put returned from is still there"
    store.put("v.mp4", path, sha(data))
    assert read(store, "v.mp4") == data
    assert len(list(store.unfinished())) == 1
