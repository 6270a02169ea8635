"""What every store promises: whole objects or none, ranges, order, and no key that leads elsewhere."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from farm.domain.errors import InvalidRequest, ObjectNotFound, StorageUnavailable
from tests.storage.conftest import PART


def read(store, key, *span):
    return b"".join(store.open(key, *span))


@pytest.mark.parametrize("size", [0, 1, 700_000, PART, PART + 1, 2 * PART + 12_345])
def test_what_is_put_is_read_whole(store, tmp_path, size):
    data = os.urandom(size)
    source = tmp_path / "a.mp4"
    source.write_bytes(data)
    store.put("videos/job_a/1/video.mp4", source, hashlib.sha256(data).hexdigest())
    assert read(store, "videos/job_a/1/video.mp4") == data
    assert store.size("videos/job_a/1/video.mp4") == size


def test_parts_of_an_object(store):
    data = os.urandom(700_000)
    store.put_bytes("v.mp4", data)
    assert read(store, "v.mp4", 300_000, 300_007) == data[300_000:300_007]
    assert read(store, "v.mp4", 699_990) == data[699_990:]
    assert read(store, "v.mp4", 0, 1) == data[:1]
    assert read(store, "v.mp4", 5, 5) == b""
    assert read(store, "v.mp4", 7, 3) == b""
    assert read(store, "v.mp4", 699_999, 10**9) == data[-1:]
    assert read(store, "v.mp4", 700_000) == b""
    assert read(store, "v.mp4", 10**9, 10**9 + 1) == b""


@pytest.mark.parametrize("size", [4, 2 * PART + 1])
def test_a_file_that_is_not_what_was_promised_is_refused_and_the_old_one_stays(store, tmp_path, size):
    store.put_bytes("videos/v.mp4", b"old")
    source = tmp_path / "cut.mp4"
    source.write_bytes(bytes(size))
    with pytest.raises(StorageUnavailable, match="checksum") as caught:
        store.put("videos/v.mp4", source, hashlib.sha256(b"whole").hexdigest())
    assert caught.value.next
    assert read(store, "videos/v.mp4") == b"old"
    assert list(store.list("")) == ["videos/v.mp4"]


def test_the_same_epoch_may_upload_again(store):
    store.put_bytes("videos/j/1/p.jpg", b"first")
    store.put_bytes("videos/j/1/p.jpg", b"again")
    assert read(store, "videos/j/1/p.jpg") == b"again"


@pytest.mark.parametrize(
    "key",
    ["", "/etc/passwd", "../up", "videos/../../up", "a//b", "a/./b", "a/", "a\\..\\b", "nul\0", "a/.part-x"],
)
def test_a_key_that_could_lead_elsewhere_is_refused_everywhere(store, tmp_path, key):
    source = tmp_path / "x"
    source.write_bytes(b"x")
    for act in (
        lambda: store.put(key, source, hashlib.sha256(b"x").hexdigest()),
        lambda: store.put_bytes(key, b"x"),
        lambda: store.open(key),
        lambda: store.size(key),
        lambda: store.delete([key]),
    ):
        with pytest.raises(InvalidRequest):
            act()
    assert list(store.list("")) == []


def test_a_missing_object_says_so_before_the_first_byte(store):
    store.put_bytes("videos/j/1/v.mp4", b"x")
    for key in ("videos/none", "videos/j", "videos/j/1/v.mp4/more"):
        for span in ((), (0, 1), (5,), (3, 3)):
            with pytest.raises(ObjectNotFound):
                store.open(key, *span)
    assert store.size("videos/none") is None
    assert store.size("videos/j") is None


def test_list_and_delete(store):
    for key in ("videos/a/1/v.mp4", "videos/a/2/v.mp4", "videos/ab/1/v.mp4", "other"):
        store.put_bytes(key, b"x")
    assert list(store.list("videos/a/")) == ["videos/a/1/v.mp4", "videos/a/2/v.mp4"]
    assert list(store.list("videos/a")) == ["videos/a/1/v.mp4", "videos/a/2/v.mp4", "videos/ab/1/v.mp4"]
    assert list(store.list("none/")) == []
    store.delete(["videos/ab/1/v.mp4", "never/was"])
    store.delete([])
    assert list(store.list("")) == ["other", "videos/a/1/v.mp4", "videos/a/2/v.mp4"]


def test_more_objects_than_one_answer_holds(store):
    wanted = [f"videos/{n:04}" for n in range(1005)]
    with ThreadPoolExecutor(8) as people:
        list(people.map(lambda key: store.put_bytes(key, b""), wanted))
    assert list(store.list("videos/")) == wanted
    store.delete(wanted)
    assert list(store.list("")) == []


def test_names_in_any_language(store):
    key = "videos/蓝色 三角形 + 50% & more?/ä#1.mp4"
    store.put_bytes(key, b"x")
    assert list(store.list("videos/蓝")) == [key]
    assert read(store, key) == b"x"
    store.delete([key])
    assert store.size(key) is None


def test_a_store_that_is_there_checks_out(store):
    store.check()
    assert store.name
