"""A folder as a store: whole objects or none, and no way out of it."""

import errno
import os

import pytest

from farm.domain.errors import (
    DiskFull,
    FolderUnusable,
    InvalidRequest,
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


def test_a_link_out_of_the_store_is_not_followed(store, root, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (root / "way-out").symlink_to(tmp_path)
    with pytest.raises(InvalidRequest, match="out of the store"):
        store.open("way-out/secret")


def test_half_an_object_is_not_listed_and_empty_folders_do_not_pile_up(store, root):
    for key in ("videos/a/1/v.mp4", "videos/ab/1/v.mp4"):
        store.put_bytes(key, b"x")
    (root / "videos" / "a" / ".part-left-by-a-crash").write_bytes(b"half")
    assert list(store.list("videos/a")) == ["videos/a/1/v.mp4", "videos/ab/1/v.mp4"]
    store.delete(["videos/ab/1/v.mp4"])
    assert not (root / "videos" / "ab").exists()


def test_a_folder_that_was_taken_away_does_not_check_out(store, root):
    root.rmdir()
    with pytest.raises(FolderUnusable, match="is not there"):
        store.check()


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
