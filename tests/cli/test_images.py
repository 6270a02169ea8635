"""`--image`: read here, uploaded once, refused in words."""

import json
from pathlib import Path

import pytest

from farm.cli.client import Client
from farm.cli.images import Uploads
from farm.db import jobs
from tests.cli.command import Command
from tests.library import I2V
from tests.served.farm import Served
from tests.served.pictures import offer_i2v, picture


@pytest.fixture(autouse=True)
def i2v(served: Served, tmp_path: Path) -> None:
    offer_i2v(served.services)
    (tmp_path / "a.png").write_bytes(picture())


def test_a_job_begins_with_the_file_and_the_size_it_got_is_said(farm: Command, served: Served) -> None:
    done = farm("submit", "it moves", "--model", I2V.name, "--image", "a.png", "--fit", "pad", "--json")
    assert done.code == 0, done.err
    assert (done.json["size"], done.json["image"]["fit"]) == ("112x48", "pad")
    told = farm("submit", "it moves", "--model", I2V.name, "--image", "a.png", "--seed", "1")
    assert told.err == "The video is 112x48, after the shape of the image; a size fixes it.\nseed 1\n"
    shown = farm("show", told.out.strip())
    assert f"image     {done.json['image']['digest']}, crop" in shown.out
    by_digest = farm("submit", "it", "--model", I2V.name, "--image", done.json["image"]["digest"], "--json")
    assert by_digest.json["image"]["digest"] == done.json["image"]["digest"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", I2V.name], "needs an image"),
        (["--model", I2V.name, "--image", "gone.png"], "gone.png cannot be read"),
        (["--model", I2V.name, "--image", "."], "cannot be read"),
        (["--model", I2V.name, "--image", "text.txt"], "not an image"),
        (["--model", I2V.name, "--image", "a.png", "--fit", "squeeze"], "crop, pad, stretch"),
        (["--image", "a.png"], "makes videos from text only"),
        (["--model", I2V.name, "--image", "a.png", "--negative-prompt", "blur"], "takes no negative prompt"),
    ],
)
def test_a_wrong_image_is_a_usage_error(farm: Command, tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "text.txt").write_text("hello")
    done = farm("submit", "it moves", *arguments)
    assert done.code == 2
    assert words in done.err


def test_a_file_that_is_too_large_is_refused_before_it_is_sent(farm: Command, tmp_path: Path) -> None:
    with (tmp_path / "film.png").open("wb") as file:
        file.truncate(40 * 2**20)
    done = farm("submit", "it moves", "--model", I2V.name, "--image", "film.png")
    assert (done.code, "larger than 32 MiB" in done.err) == (2, True)


def test_a_batch_uploads_each_image_once_from_beside_its_file(
    farm: Command, served: Served, tmp_path: Path
) -> None:
    shots = tmp_path / "shots"
    shots.mkdir()
    (shots / "b.png").write_bytes(picture(60, 120))
    rows = [
        {"prompt": "one", "image": "b.png"}, {"prompt": "two", "image": "../a.png", "seed": 7},
        {"prompt": "three", "image": "b.png", "fit": "pad"},
    ]  # fmt: skip
    (shots / "night.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    done = farm("batch", "submit", "shots/night.jsonl", "--model", I2V.name, "--json").json
    specs = [jobs.get(served.services.db, job).spec for job in done["jobs"]]
    assert [(s.width, s.height, s.fit) for s in specs] == [(48, 112, "crop"), (112, 48, "crop"), (48, 112, "pad")]
    assert specs[1].seed == 7
    assert len([key for key in served.services.store.list("images/") if key.endswith(".png")]) == 2
    again = farm("batch", "submit", "shots/night.jsonl", "--model", I2V.name, "--json").json
    assert (again["created"], again["jobs"]) == (0, done["jobs"])


def test_one_image_for_all_lines_of_a_batch(farm: Command, served: Served, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    done = farm("batch", "submit", "p.txt", "--model", I2V.name, "--image", "a.png", "--json").json
    assert len({jobs.get(served.services.db, job).spec.image for job in done["jobs"]}) == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "a"', "line 2 is not JSON"),
        ('["a"]', "line 2 is not an object"),
        ('{"prompt": "a", "image": "gone.png"}', "line 2"),
        ('{"prompt": "a", "image": 3}', "not '3'"),
    ],
)
def test_a_wrong_line_of_a_batch_is_named(farm: Command, tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "n.jsonl").write_text('{"prompt": "b", "image": "a.png"}\n' + line + "\n")
    done = farm("batch", "submit", "n.jsonl", "--model", I2V.name)
    assert done.code == 2
    assert words in done.err


def test_a_file_is_sent_once_however_often_it_is_named(tmp_path: Path) -> None:
    sent: list[bytes] = []

    class Counting(Client):
        def upload(self, path: str, data: bytes) -> dict[str, str]:
            sent.append(data)
            return {"digest": str(len(sent))}

    uploads = Uploads(Counting("http://127.0.0.1:9"))
    (tmp_path / "shots").mkdir()
    assert uploads.digest("a.png", beside=tmp_path) == uploads.digest(str(tmp_path / "a.png")) == "1"
    assert len(sent) == 1
