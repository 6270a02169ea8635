"""`/v1/videos` as the official `openai` client calls it, unchanged, against a server that runs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import openai
import pytest

from farm.db import jobs, tokens
from farm.domain.person import Role
from farm.domain.states import JobState
from tests.served.farm import Served
from tests.served.machine import Machine
from tests.served.pictures import offer_i2v, picture

# What became of the service that the client was made for is no matter here.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none is needed here", max_retries=0) as client:
        yield client


@contextmanager
def rendering(machine: Machine, count: int = 1) -> Iterator[None]:
    """Renders the next jobs as they come in, beside the one who waits for them."""

    def render() -> None:
        for _ in range(count):
            while not any(job.state is JobState.QUEUED for job in jobs.find(machine.db)[0]):
                over.wait(0.02)
            machine.take()
            machine.step(8)
            machine.finish()

    over = threading.Event()
    thread = threading.Thread(target=render)
    thread.start()
    yield
    thread.join(30)
    assert not thread.is_alive()


def test_create_poll_and_download(client: openai.OpenAI, machine: Machine) -> None:
    with rendering(machine):
        video = client.videos.create_and_poll(
            prompt="a large red circle moving up",
            seconds="2",
            size="192x192",
            poll_interval_ms=20,  # type: ignore[arg-type]
        )
    assert (video.status, video.progress, video.model, video.error) == ("completed", 100, "demo-t2v", None)
    assert video.completed_at is not None
    assert video.completed_at >= video.created_at
    content = client.videos.download_content(video.id)
    assert content.response.headers["content-type"] == "video/mp4"
    assert content.read()[4:8] == b"ftyp"
    assert client.videos.download_content(video.id, variant="thumbnail").read()[:2] == b"\xff\xd8"
    assert client.videos.download_content(video.id, variant="spritesheet").read()[:4] == b"\x89PNG"


def test_a_created_video_is_retrieved_by_its_id(served: Served, client: openai.OpenAI) -> None:
    first = client.videos.create(prompt="a boat")
    more = {
        "seed": 7, "steps": 3, "tags": {"shot": "12a"}, "depends_on": [first.id],
        "requires": {"tags": ["a100", "night"]},
    }  # fmt: skip
    made = client.videos.create(prompt="一只风筝", extra_body=more)
    found = client.videos.retrieve(made.id)
    assert (found.id, found.status, found.prompt, found.object) == (made.id, "queued", "一只风筝", "video")
    job = jobs.get(served.services.db, made.id)
    assert (job.spec.seed, job.spec.steps, dict(job.tags), job.state) == (7, 3, {"shot": "12a"}, JobState.SCHEDULED)
    assert job.requires is not None
    assert job.requires.tags == ("a100", "night")


def test_the_list_is_paged_by_the_client_itself(client: openai.OpenAI) -> None:
    made = [client.videos.create(prompt=f"kite {n}").id for n in range(5)]
    assert [video.id for video in client.videos.list(limit=2)] == made[::-1]
    assert [video.id for video in client.videos.list(limit=2, order="asc")] == made
    page = client.videos.list(limit=2, after=made[2])
    assert [video.id for video in page.data] == [made[1], made[0]]


def test_delete_makes_it_unknown(client: openai.OpenAI, machine: Machine) -> None:
    made = client.videos.create(prompt="a kite")
    gone = client.videos.delete(made.id)
    assert (gone.id, gone.deleted, gone.object) == (made.id, True, "video.deleted")
    with pytest.raises(openai.NotFoundError) as caught:
        client.videos.retrieve(made.id)
    assert caught.value.code == "job_not_found"


def test_a_failed_video_ends_the_polling_with_its_error(client: openai.OpenAI, machine: Machine) -> None:
    made = client.videos.create(prompt="a kite")
    machine.take()
    machine.fail("the prompt has too many words")
    video = client.videos.poll(made.id, poll_interval_ms=20)
    assert video.status == "failed"
    assert video.error is not None
    assert (video.error.code, video.error.message) == ("prompt_too_long", "the prompt has too many words")


def test_an_image_is_sent_as_the_client_sends_files(served: Served, client: openai.OpenAI) -> None:
    offer_i2v(served.services)
    data = picture()
    sent = [
        client.videos.create(prompt="it rains", model="tiny-i2v", input_reference=file)  # type: ignore[arg-type]
        for file in (("still.png", data, "image/png"), data)
    ]
    images = {jobs.get(served.services.db, video.id).spec.image for video in sent}
    assert len(images) == 1, "the same file is the same image"
    assert None not in images


def test_errors_are_the_clients_own_classes_and_say_what_helps(served: Served, client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as wrong:
        client.videos.create(prompt="a kite", size="100x100")  # type: ignore[arg-type]
    assert isinstance(wrong.value.body, dict)
    assert (wrong.value.body["next"], wrong.value.code) == ("use 192x192", "invalid_request")
    early = client.videos.create(prompt="a kite")
    with pytest.raises(openai.ConflictError):
        client.videos.download_content(early.id)
    secret = tokens.create(served.services.db, "mei", Role.ARTIST, "test").secret
    served.app.state.accounts.look_again()
    with pytest.raises(openai.AuthenticationError):
        client.videos.create(prompt="a kite")
    signed_in = client.with_options(api_key=secret)
    mine = signed_in.videos.create(prompt="a kite")
    assert jobs.get(served.services.db, mine.id).owner == "mei"
    with pytest.raises(openai.PermissionDeniedError):
        signed_in.videos.delete(early.id)
