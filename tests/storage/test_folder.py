"""A folder as a store: whole objects or none, and no way out of it."""

import errno
import hashlib
import os

import pytest

from farm.domain.errors import (
    DiskFull,
    FolderUnusable,
    InvalidRequest,
    ObjectNotFound,
    StorageUnavailable,
)
from farm.storage import folder
from farm.storage.folder import FolderStore
from farm.storage.store import open_store


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def store(root):
    return FolderStore(root)


def everything(root):
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def read(store, key, *span):
    return b"".join(store.open(key, *span))


def test_what_is_put_is_read_whole_and_in_part(store, tmp_path):
    data = os.urandom(700_000)
    source = tmp_path / "a.mp4"
    source.write_bytes(data)
    store.put("videos/job_a/1/video.mp4", source, hashlib.sha256(data).hexdigest())
    assert read(store, "videos/job_a/1/video.mp4") == data
    assert store.size("videos/job_a/1/video.mp4") == len(data)
    assert read(store, "videos/job_a/1/video.mp4", 300_000, 300_007) == data[300_000:300_007]
    assert read(store, "videos/job_a/1/video.mp4", 699_990) == data[699_990:]
    assert read(store, "videos/job_a/1/video.mp4", 5, 5) == b""
    assert read(store, "videos/job_a/1/video.mp4", 699_999, 10**9) == data[-1:]


def test_a_file_that_is_not_what_was_promised_is_refused_and_the_old_one_stays(store, root, tmp_path):
    store.put_bytes("videos/v.mp4", b"old")
    source = tmp_path / "cut.mp4"
    source.write_bytes(b"half")
    with pytest.raises(StorageUnavailable, match="checksum"):
        store.put("videos/v.mp4", source, hashlib.sha256(b"whole").hexdigest())
    assert read(store, "videos/v.mp4") == b"old"
    assert everything(root) == ["videos/v.mp4"]


def test_the_same_epoch_may_upload_again(store):
    store.put_bytes("videos/j/1/p.jpg", b"first")
    store.put_bytes("videos/j/1/p.jpg", b"again")
    assert read(store, "videos/j/1/p.jpg") == b"again"


@pytest.mark.parametrize(
    "key",
    ["", "/etc/passwd", "../up", "videos/../../up", "a//b", "a/./b", "a/", "a\\..\\b", "nul\0", "a/.part-x"],
)
def test_a_key_that_could_lead_elsewhere_is_refused_everywhere(store, root, key):
    for act in (
        lambda: store.put_bytes(key, b"x"),
        lambda: store.open(key),
        lambda: store.size(key),
        lambda: store.delete([key]),
    ):
        with pytest.raises(InvalidRequest):
            act()
    assert everything(root.parent) == []


def test_a_link_out_of_the_store_is_not_followed(store, root, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (root / "way-out").symlink_to(tmp_path)
    with pytest.raises(InvalidRequest, match="out of the store"):
        store.open("way-out/secret")


def test_a_missing_object_says_so_before_the_first_byte(store):
    store.put_bytes("videos/j/1/v.mp4", b"x")
    for key in ("videos/none", "videos/j", "videos/j/1/v.mp4/more"):
        with pytest.raises(ObjectNotFound):
            store.open(key)
    assert store.size("videos/none") is None
    assert store.size("videos/j") is None


def test_list_and_delete(store, root):
    for key in ("videos/a/1/v.mp4", "videos/a/2/v.mp4", "videos/ab/1/v.mp4", "other"):
        store.put_bytes(key, b"x")
    (root / "videos" / "a" / ".part-left-by-a-crash").write_bytes(b"half")
    assert list(store.list("videos/a/")) == ["videos/a/1/v.mp4", "videos/a/2/v.mp4"]
    assert list(store.list("videos/a")) == ["videos/a/1/v.mp4", "videos/a/2/v.mp4", "videos/ab/1/v.mp4"]
    assert list(store.list("none/")) == []
    store.delete(["videos/ab/1/v.mp4", "never/was"])
    assert list(store.list("")) == ["other", "videos/a/1/v.mp4", "videos/a/2/v.mp4"]
    assert not (root / "videos" / "ab").exists()  # no empty folders pile up


def test_a_full_disk_is_named_and_leaves_nothing(store, root, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(folder.os, "fsync", full)
    with pytest.raises(DiskFull) as caught:
        store.put_bytes("v.mp4", b"x" * 1000)
    assert "free some space" in caught.value.next
    assert everything(root) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_folder_is_refused_at_once(root):
    root.mkdir(mode=0o500)
    with pytest.raises(FolderUnusable, match="cannot write"):
        FolderStore(root)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_became_read_only_is_named(store, root, monkeypatch, number):
    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folder.tempfile, "mkstemp", refuse)
    with pytest.raises(FolderUnusable, match="cannot write") as caught:
        store.put_bytes("v.mp4", b"x")
    assert caught.value.next


def test_a_file_in_the_place_of_the_folder_is_named(root):
    root.write_text("I was here first")
    with pytest.raises(FolderUnusable, match="is not a folder"):
        FolderStore(root)


def test_the_new_name_is_durable_before_put_returns(store, root, monkeypatch):
    """The folder is synced after the rename, or a power cut could take the name back."""
    order = []
    replace, sync = os.replace, folder._sync
    monkeypatch.setattr(folder.os, "replace", lambda a, b: (replace(a, b), order.append("rename")))
    monkeypatch.setattr(folder, "_sync", lambda path: (sync(path), order.append(path)))
    store.put_bytes("videos/j/v.mp4", b"x")
    assert order == [root, root / "videos", "rename", root / "videos" / "j"]


def test_open_store_takes_paths_and_file_urls(tmp_path):
    for where in (tmp_path / "a", str(tmp_path / "a"), f"file://{tmp_path}/a"):
        store = open_store(where)
        store.put_bytes("k", b"v")
        assert (tmp_path / "a" / "k").read_bytes() == b"v"
    with pytest.raises(StorageUnavailable, match="no store"):
        open_store("ftp://somewhere")
