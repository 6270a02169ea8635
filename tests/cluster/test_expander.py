"""The operator's expander: asked once, checked, kept beside what was typed, and never in a job's way."""

import http.server
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from farm.cluster.claim import Claim
from farm.cluster.expander import ExpanderFailed, expand
from farm.db import jobs, leases, submission
from farm.domain.errors import InvalidRequest
from farm.domain.job import JobSpec, NewJob
from farm.domain.provenance import read_back
from farm.domain.request import Models, new_job
from farm.domain.states import Outcome
from farm.media.mp4 import read_tags
from farm.settings import Settings, load_settings
from model.wan.config import PRESETS
from tests.cluster.fake_model import DIGEST
from tests.cluster.test_render import Workplace, place

__all__ = ["place"]

DEMO = PRESETS["demo-t2v"]
SPEC = JobSpec("t2v", DEMO.name, DIGEST, "一个方块", *DEMO.size, 17, 12, 4, 7, 3.0, expand=True)


def script(folder: Path, text: str) -> str:
    """A command: Python that has the prompt in `prompt`."""
    path = folder / "my expander.py"
    path.write_text(f"import os, sys\nprompt = sys.stdin.read()\n{text}\n")
    return f'{sys.executable} "{path}"'


def settings_with(folder: Path, **options: Any) -> Settings:
    return load_settings(home=folder, **options)


def test_a_command_reads_the_prompt_and_answers_with_a_longer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    text = "print(prompt + ', slowly', os.environ['FARM_MODEL'], 'AWS_SECRET_ACCESS_KEY' in os.environ)"
    given = settings_with(tmp_path, expander_command=script(tmp_path, text))
    assert expand(given, SPEC, DEMO) == "一个方块, slowly demo-t2v False"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sys.exit('no tokens left')", "no tokens left"),
        ("pass", "the prompt is empty"),
        ("print('word ' * 90)", "cannot be used"),
        ("sys.stdout.buffer.write(b'a\\0b')", "control characters"),
    ],
)
def test_what_is_no_prompt_is_not_taken(tmp_path: Path, text: str, said: str) -> None:
    given = settings_with(tmp_path, expander_command=script(tmp_path, text))
    with pytest.raises(ExpanderFailed, match=said):
        expand(given, SPEC, DEMO)


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    for command in ("/nowhere/expander", "'unbalanced"):
        with pytest.raises(ExpanderFailed, match="did not run"):
            expand(settings_with(tmp_path, expander_command=command), SPEC, DEMO)


@pytest.fixture
def endpoint() -> Iterator[tuple[str, list[dict[str, Any]], dict[str, Any]]]:
    """Its address, what it was asked, and what it shall answer."""
    asked: list[dict[str, Any]] = []
    answer: dict[str, Any] = {"choices": [{"message": {"content": " a red square, softly lit\n"}}]}

    class Chat(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({"path": self.path, "key": self.headers["Authorization"], **said})
            body = json.dumps(answer).encode()
            self.send_response(200 if "choices" in answer else 429)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked, answer
    server.shutdown()
    server.server_close()


def test_a_chat_endpoint_is_asked_as_its_clients_do(tmp_path: Path, endpoint: Any) -> None:
    url, asked, answer = endpoint
    given = settings_with(tmp_path, expander_url=url, expander_model="qwen", expander_key="sk-hush")
    assert expand(given, SPEC, DEMO) == "a red square, softly lit"
    (said,) = asked
    assert (said["path"], said["key"], said["model"]) == ("/v1/chat/completions", "Bearer sk-hush", "qwen")
    assert said["messages"][1] == {"role": "user", "content": "一个方块"}
    answer.clear()
    with pytest.raises(ExpanderFailed) as caught:
        expand(given, SPEC, DEMO)
    assert "hush" not in f"{caught.value}{caught.value.next}{given!r}"


def test_both_texts_are_kept_and_the_longer_one_is_rendered(
    place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.cluster.fake_model import Pipeline

    rendered: list[str] = []
    real = Pipeline.render
    monkeypatch.setattr(
        Pipeline, "render", lambda self, spec, stop: rendered.append(spec.prompt) or real(self, spec, stop)
    )
    command = script(tmp_path, "print(prompt + ' in the evening')")
    place.renderer._settings = place.settings.model_copy(update={"expander_command": command})
    job = submission.submit(place.db, [NewJob(SPEC)])[0].job.id
    assert place.render(Claim(place.claim(job), 20.0)).outcome is Outcome.SUCCEEDED
    made = jobs.get(place.db, job)
    assert (made.spec.prompt, made.expanded_prompt) == ("一个方块", "一个方块 in the evening")
    assert rendered == ["一个方块 in the evening"]
    assert made.artifact is not None
    told = read_back(read_tags(Path(place.settings.store) / made.artifact.key))
    assert told is not None
    assert (told.settings["prompt"], told.expanded_prompt) == ("一个方块", "一个方块 in the evening")
    assert told.wish["prompt"] == "一个方块 in the evening", "made again it is the same video"


def test_a_second_attempt_renders_what_the_first_one_wrote_down(place: Workplace, tmp_path: Path) -> None:
    count = tmp_path / "count"
    command = script(
        tmp_path, f"open({str(count)!r}, 'a').write('x'); print(prompt, len(open({str(count)!r}).read()))"
    )
    place.renderer._settings = place.settings.model_copy(update={"expander_command": command})
    job = submission.submit(place.db, [NewJob(SPEC)])[0].job.id
    first = place.claim(job)
    assert leases.start(place.db, job, first.epoch)
    assert leases.expand(place.db, job, first.epoch, "一个方块 by night")
    leases.lost(place.db, job, first.epoch, "killed")
    assert place.render(Claim(place.claim(job, "there"), 20.0)).outcome is Outcome.SUCCEEDED
    assert jobs.get(place.db, job).expanded_prompt == "一个方块 by night"
    assert not count.exists()


def test_an_expander_that_fails_leaves_the_prompt_as_it_was_typed(place: Workplace, tmp_path: Path) -> None:
    place.renderer._settings = place.settings.model_copy(update={"expander_command": "/nowhere/expander"})
    job = submission.submit(place.db, [NewJob(SPEC)])[0].job.id
    assert place.render(Claim(place.claim(job), 20.0)).outcome is Outcome.SUCCEEDED
    assert jobs.get(place.db, job).expanded_prompt is None
    assert any(line["event"] == "prompt_not_expanded" for line in place.log_lines())


def test_only_a_farm_that_has_one_takes_the_wish() -> None:
    models = Models({DEMO.name: DEMO}, DEMO.name, lambda preset: "digest")
    with pytest.raises(InvalidRequest, match="no prompt expander"):
        new_job({"prompt": "a", "expand": True}, models)
    able = Models({DEMO.name: DEMO}, DEMO.name, lambda preset: "digest", expands=True)
    assert new_job({"prompt": "a", "expand": True}, able).spec.expand
    assert not new_job({"prompt": "a"}, able).spec.expand
