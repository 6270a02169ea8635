"""The sweep frees what is dead, on folders and on S3, and nothing that somebody could still want."""

import io
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
from PIL import Image

from farm.cli.main import cli
from farm.db import jobs, leases
from farm.db.engine import migrate, open_database
from farm.db.remains import Remains
from farm.domain.errors import DatabaseUnavailable
from farm.domain.job import NewJob
from farm.domain.states import Outcome
from farm.storage import collector, images
from farm.storage.folder import FolderStore
from tests.db.conftest import LANE, Clock, register, spec, submit_one, video
from tests.storage.conftest import keys

DAY = 86_400.0


@pytest.fixture
def clock():
    return Clock(datetime.now(UTC))


@pytest.fixture
def db(tmp_path, clock):
    migrate(f"sqlite:///{tmp_path}/farm.db")
    database = open_database(f"sqlite:///{tmp_path}/farm.db", clock)
    register(database)
    yield database
    database.close()


@pytest.fixture
def sweep(store, db, clock):
    """sweep(): as if the database's clock were the store's too."""

    def act(register=None, dry_run=False):
        return collector.sweep(store, register or Remains(db, 7 * DAY, DAY), clock.time, DAY, dry_run)

    return act


def claimed(db, store, job, files=("video.mp4", "poster.jpg", "preview-3.jpg")):
    found = leases.claim(db, "w1", LANE)
    assert found is not None
    leases.start(db, job, found.epoch)
    for name in files:
        store.put_bytes(f"{found.prefix}/{name}", name.encode())
    return found.epoch


def freed(swept):
    return {kind: heap.objects for kind, heap in swept.freed.items() if heap.objects}


def test_losers_and_old_previews_go_and_the_winners_video_stays(store, db, clock, sweep):
    job = submit_one(db).id
    leases.give_back(db, job, claimed(db, store, job), Outcome.DRAIN, "drained")
    leases.finish(db, job, claimed(db, store, job), video(job, 2), {})
    before = list(store.list(""))
    assert freed(sweep()) == {}, "everything is young"
    clock.forward(DAY + 60)
    told = sweep(dry_run=True)
    assert freed(told) == {"losers": 3, "previews": 1}
    assert told.bytes == 2 * len("preview-3.jpg") + len("video.mp4") + len("poster.jpg")
    assert list(store.list("")) == before, "a dry run deletes nothing"
    assert freed(sweep()) == freed(told)
    assert list(store.list("")) == [f"videos/{job}/2/poster.jpg", f"videos/{job}/2/video.mp4"]
    assert freed(sweep()) == {}


def test_a_live_claim_is_spared_however_old_its_files_are(store, db, clock, sweep):
    job = submit_one(db).id
    claimed(db, store, job)
    clock.forward(30 * DAY)
    assert freed(sweep()) == {}
    assert len(list(store.list(""))) == 3


def test_a_deleted_jobs_video_goes_after_its_time(store, db, clock, sweep):
    job = submit_one(db).id
    leases.finish(db, job, claimed(db, store, job, ("video.mp4", "poster.jpg")), video(job, 1), {})
    jobs.hide(db, job)
    clock.forward(6 * DAY)
    assert freed(sweep()) == {}
    clock.forward(2 * DAY)
    assert freed(sweep()) == {"hidden": 2}
    assert list(store.list("")) == []


def test_what_the_database_does_not_know_is_left_alone_and_told(store, clock, sweep):
    for key in ("videos/job_ofanotherone/1/video.mp4", "videos/readme.txt", "elsewhere/1/x", "images/logo.png"):
        store.put_bytes(key, b"x")
    clock.forward(30 * DAY)
    swept = sweep()
    assert freed(swept) == {}
    assert (swept.unknown.objects, swept.unknown.examples) == (1, ["videos/job_ofanotherone/1/video.mp4"])
    assert len(list(store.list(""))) == 4


def test_a_claim_that_is_won_while_the_store_is_listed_keeps_its_files(store, db, clock, sweep):
    """The listing sees the second claim's files; only then does the second claim become the winner."""
    job = submit_one(db).id
    leases.give_back(db, job, claimed(db, store, job), Outcome.DRAIN, "drained")
    epoch = claimed(db, store, job)
    clock.forward(DAY + 60)
    remains = Remains(db, 7 * DAY, DAY)

    class Late:
        unnamed = staticmethod(remains.unnamed)

        def dead(self, claims):
            assert leases.finish(db, job, epoch, video(job, epoch), {})
            return remains.dead(claims)

    assert freed(sweep(Late())) == {"losers": 3}
    assert store.size(f"videos/{job}/{epoch}/video.mp4") is not None


def test_a_new_claim_that_begins_while_the_store_is_swept_loses_nothing(store, db, clock, sweep):
    """The database says "loser", and before that is acted upon the next claim writes its own files."""
    job = submit_one(db).id
    leases.give_back(db, job, claimed(db, store, job), Outcome.DRAIN, "drained")
    leases.give_back(db, job, claimed(db, store, job), Outcome.DRAIN, "drained")
    clock.forward(DAY + 60)
    remains = Remains(db, 7 * DAY, DAY)

    class Race:
        unnamed = staticmethod(remains.unnamed)

        def dead(self, claims):
            said = remains.dead(claims)
            assert claimed(db, store, job) == 3
            return said

    assert freed(sweep(Race())) == {"losers": 3}
    for epoch in (2, 3):
        assert store.size(f"videos/{job}/{epoch}/video.mp4") is not None


# -- images


def kept(store, colour=(200, 0, 0)):
    data = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(data, "PNG")
    return images.keep(store, data.getvalue(), b"small"), data.getvalue()


def age(store, clock):
    """Of a folder's images only, where what is written from now on is to be young."""
    long_ago = (clock.time - timedelta(days=2)).timestamp()
    for path in (store.root / "images").iterdir():
        os.utime(path, (long_ago, long_ago))


def with_image(db, digest):
    made = spec()
    return jobs.submit(db, [NewJob(type(made)(**{**vars(made), "image": digest}))])[0].job.id


def test_an_image_goes_once_no_job_refers_to_it(store, db, clock, sweep):
    red, _ = kept(store)
    blue, _ = kept(store, (0, 0, 200))
    with_image(db, red)
    assert freed(sweep()) == {}
    clock.forward(DAY + 60)
    assert freed(sweep()) == {"images": 2}
    assert list(store.list("")) == [images.thumbnail_key(red), images.image_key(red)]
    assert images.head(store, blue) is None


@pytest.mark.parametrize("moment", ["before it is gone", "after it is gone", "with its small picture"])
def test_an_image_that_is_sent_again_while_it_is_swept_is_there_afterwards(
    store, db, clock, sweep, monkeypatch, moment
):
    red, png = kept(store)
    clock.forward(DAY + 60)
    delete = store.delete

    def in_between(gone):
        gone = list(gone)
        last = moment == "with its small picture"
        if (images.thumbnail_key(red) if last else images.image_key(red)) not in gone:
            return delete(gone)
        if moment != "after it is gone":
            images.keep(store, png, b"small")
        delete(gone)
        if moment == "after it is gone":
            images.keep(store, png, b"small")
        with_image(db, red)  # and a job is submitted with it
        return None

    monkeypatch.setattr(store, "delete", in_between)
    assert freed(sweep()) == {}
    assert images.fetch(store, red) == png
    assert store.size(images.thumbnail_key(red)) == len(b"small")


def deletions(store, monkeypatch):
    """The keys that were deleted, as they go."""
    gone, delete = [], store.delete
    monkeypatch.setattr(store, "delete", lambda keys: (gone.extend(keys := list(keys)), delete(keys))[1])
    return gone


@pytest.mark.parametrize("how", ["sent", "named"])
@pytest.mark.parametrize("act", ["find", "open"])
def test_an_image_that_is_wanted_before_it_goes_is_not_away_for_a_moment(
    tmp_path, db, clock, monkeypatch, act, how
):
    """Whoever renders with it meanwhile would be told that it is missing. Listing and reading take their time."""
    store = FolderStore(tmp_path / "store")
    red, png = kept(store)
    age(store, clock)
    gone, through = deletions(store, monkeypatch), getattr(store, act)

    def wanted_meanwhile(key):
        said = list(through(key))
        if key in {"images/", images.image_key(red)}:
            images.keep(store, png, b"small") if how == "sent" else with_image(db, red)
        return iter(said)

    monkeypatch.setattr(store, act, wanted_meanwhile)
    assert freed(collector.sweep(store, Remains(db, 7 * DAY, DAY), clock.time, DAY)) == {}
    assert gone == []
    monkeypatch.undo()
    assert images.fetch(store, red) == png


def test_where_the_second_look_finds_no_database_the_images_are_put_back(store, db, clock, sweep, monkeypatch):
    red, png = kept(store)
    clock.forward(DAY + 60)
    remains, gone = Remains(db, 7 * DAY, DAY), deletions(store, monkeypatch)

    class Leaves:
        dead = staticmethod(remains.dead)

        def unnamed(self, digests):
            if gone:
                raise DatabaseUnavailable("it has just gone", "try again")
            return remains.unnamed(digests)

    with pytest.raises(DatabaseUnavailable):
        sweep(Leaves())
    assert gone == [images.image_key(red)]
    assert images.fetch(store, red) == png
    assert store.size(images.thumbnail_key(red)) == len(b"small")


def test_many_images_are_asked_for_at_once_and_no_more_than_fit_in_hand(store, db, clock, sweep, monkeypatch):
    colours = [(n, 0, 0) for n in range(7)]
    made = sorted(kept(store, colour)[0] for colour in colours)
    named = made[3]
    with_image(db, named)
    one = store.size(images.image_key(made[0])) + len(b"small")
    clock.forward(DAY + 60)
    remains, asked = Remains(db, 7 * DAY, DAY), []

    class Counts:
        dead = staticmethod(remains.dead)

        def unnamed(self, digests):
            asked.append(sorted(digests))
            return remains.unnamed(digests)

    monkeypatch.setattr(collector, "_IN_HAND", 4 * one + one // 2)
    assert freed(sweep(Counts())) == {"images": 12}
    assert asked == [made[:4], made[:3], made[:3], *[made[4:]] * 3], "for each handful, never for one image"
    assert list(store.list("")) == [images.thumbnail_key(named), images.image_key(named)]


def test_where_jobs_are_unknown_their_images_may_be_too(store, clock, sweep):
    """The database of another farm, or of the day before yesterday."""
    red, png = kept(store)
    store.put_bytes("videos/job_ofanotherone/1/video.mp4", b"x")
    clock.forward(30 * DAY)
    assert freed(sweep()) == {}
    assert images.fetch(store, red) == png


def test_an_image_that_a_job_is_about_to_name_is_spared(tmp_path, db, clock):
    """The wish was checked before the image would have gone, and becomes a job afterwards."""
    store = FolderStore(tmp_path / "store")
    red, png = kept(store)
    age(store, clock)
    found: list[bytes | None] = []

    class Race(Remains):
        def unnamed(self, digests):
            said = super().unnamed(digests)
            found.append(images.reserve(store, red))
            return said

    collector.sweep(store, Race(db, 7 * DAY, DAY), clock.time, DAY)
    assert found[0] is not None
    assert images.fetch(store, red) == png


# -- what was never finished


def test_broken_uploads_go_once_they_are_old(new_store, request, clock, tmp_path):
    store = new_store()
    if isinstance(store, FolderStore):
        store.put_bytes("videos/j/1/video.mp4", b"x")
        (store.root / "videos/j/1/.part-cut").write_bytes(b"half")
        (store.root / "holiday.part").mkdir()
        (store.root / "holiday.part/.part-1").write_bytes(b"somebody else's")
    else:
        server = request.getfixturevalue("seaweedfs")
        access, secret = keys(server)
        people = boto3.client(
            "s3", endpoint_url=server.server.endpoint, aws_access_key_id=access, aws_secret_access_key=secret,
            region_name="us-east-1",
        )  # fmt: skip
        where = {"Bucket": "farm", "Key": store._name("videos/j/1/video.mp4")}
        upload = people.create_multipart_upload(**where)["UploadId"]
        people.upload_part(**where, UploadId=upload, PartNumber=1, Body=b"half")
        people.create_multipart_upload(Bucket="farm", Key=store._name("holiday.mp4"))  # somebody else's

    class Nobody:
        def dead(self, claims):
            return dict.fromkeys(claims)

        def unnamed(self, digests):
            return set()

    assert freed(collector.sweep(store, Nobody(), clock.time, DAY)) == {}, "it may still be at work"
    clock.forward(DAY + 60)
    swept = collector.sweep(store, Nobody(), clock.time, DAY)
    assert (freed(swept), swept.bytes) == ({"unfinished": 1}, 4)
    assert len(list(store.unfinished())) == 1, "of others that share the folder or the bucket"


def test_a_folder_that_the_sweep_finds_empty_may_be_filled_at_the_same_moment(tmp_path, monkeypatch):
    store = FolderStore(tmp_path / "store")
    make, removed = store._make_folder, []

    def made_and_removed(folder: Path) -> None:
        make(folder)
        if not removed:
            removed.append(folder)
            folder.rmdir()

    monkeypatch.setattr(store, "_make_folder", made_and_removed)
    store.put_bytes("videos/j/2/video.mp4", b"x")
    assert (len(removed), store.size("videos/j/2/video.mp4")) == (1, 1)


def test_by_hand_it_says_what_and_how_many_bytes(db, tmp_path, clock, monkeypatch, capsys):
    store = FolderStore(tmp_path / "store")
    job = submit_one(db).id
    leases.give_back(db, job, claimed(db, store, job), Outcome.DRAIN, "drained")
    claimed(db, store, job)
    long_ago = (clock.time - timedelta(days=2)).timestamp()
    for path in (store.root / "videos" / job / "1").iterdir():
        os.utime(path, (long_ago, long_ago))
    cli.main(["sweep", "--home", str(tmp_path), "--dry-run", "--json"], standalone_mode=False)
    said = json.loads(capsys.readouterr().out)
    assert (said["dry_run"], said["objects"], said["losers"]["objects"]) == (True, 3, 3)
    cli.main(["sweep", "--home", str(tmp_path)], standalone_mode=False)
    assert "3      32 B  files of attempts that did not win\n32 B freed, 3 objects" in capsys.readouterr().out
    assert sorted(p.name for p in (store.root / "videos" / job).iterdir()) == ["2"]
