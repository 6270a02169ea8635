"""Every wish is accepted whole or refused with one field, one message and the nearest valid value."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.domain.errors import FarmError, InvalidRequest, PromptRefused, UnknownModel
from farm.domain.fields import FIELDS
from farm.domain.job import batch_row_key, seed_from_key
from farm.domain.request import (
    BadRows,
    Models,
    WeightsUnusable,
    batch_jobs,
    frames_of,
    new_job,
    seconds_of,
)
from model.errors import CorruptWeights
from model.wan.config import PRESETS, Preset
from model.wan.sizes import nearest_size

MODELS = Models(
    installed={name: PRESETS[name] for name in ("demo-t2v", "wan2.1-t2v-1.3b")},
    default="demo-t2v",
    digest=lambda preset: f"digest of {preset.name}",
)
WAN = {"prompt": "a kite", "model": "wan2.1-t2v-1.3b"}


def test_a_prompt_alone_takes_every_default_of_the_model() -> None:
    spec = new_job({"prompt": "  a red kite  "}, MODELS).spec
    assert (spec.prompt, spec.model, spec.width, spec.height) == ("a red kite", "demo-t2v", 96, 96)
    assert (spec.frames, spec.fps, spec.steps, spec.guidance) == (17, 12, 16, 3.0)
    assert spec.model_digest == "digest of demo-t2v"
    assert 0 <= spec.seed < 2**32


@pytest.mark.parametrize(
    ("body", "error", "field", "hint"),
    [
        ({}, PromptRefused, "prompt", "describe"),
        ({"prompt": " \t\n"}, PromptRefused, "prompt", "describe"),
        ({"prompt": "\u200b\u200b"}, PromptRefused, "prompt", "describe"),
        ({"prompt": 3}, PromptRefused, "prompt", "describe"),
        ({"prompt": "a\x00b"}, PromptRefused, "prompt", "UTF-8"),
        ({"prompt": "a\ud800b"}, PromptRefused, "prompt", "UTF-8"),
        ({"prompt": "a" * 201}, PromptRefused, "prompt", "by 1 characters"),
        ({"prompt": "a " * 64}, PromptRefused, "prompt", "fewer words"),
        ({"prompt": "a", "model": "demo-t2w"}, UnknownModel, "model", "did you mean demo-t2v"),
        ({"prompt": "a", "model": "wan2.1-t2v-14b"}, UnknownModel, "model", "choose one of"),
        ({"prompt": "a", "model": ["x"]}, UnknownModel, "model", "choose one of"),
        ({"prompt": "a", "size": "128x128"}, InvalidRequest, "size", "use 96x96"),
        ({"prompt": "a", "size": "large"}, InvalidRequest, "size", "use 96x96"),
        ({"prompt": "a", "size": "-96x96"}, InvalidRequest, "size", "use 96x96"),
        ({**WAN, "size": "830x480"}, InvalidRequest, "size", "832x480"),
        ({**WAN, "size": "4000x2250"}, InvalidRequest, "size", "is 960x960"),
        ({**WAN, "size": "64x480"}, InvalidRequest, "size", "256x480"),
        ({"prompt": "a", "frames": 16}, InvalidRequest, "frames", "nearest is 17"),
        ({"prompt": "a", "frames": 400}, InvalidRequest, "frames", "nearest is 17"),
        ({"prompt": "a", "frames": 1}, InvalidRequest, "frames", "nearest is 5"),
        ({"prompt": "a", "frames": 17.5}, InvalidRequest, "frames", ""),
        ({"prompt": "a", "frames": True}, InvalidRequest, "frames", ""),
        ({"prompt": "a", "frames": 17, "seconds": "1"}, InvalidRequest, "frames", "leave one"),
        ({"prompt": "a", "seconds": 9}, InvalidRequest, "seconds", "1.333"),
        ({"prompt": "a", "seconds": 0}, InvalidRequest, "seconds", "0.42 to 1.333"),
        ({"prompt": "a", "seconds": math.nan}, InvalidRequest, "seconds", ""),
        ({"prompt": "a", "steps": 0}, InvalidRequest, "steps", "nearest is 1"),
        ({"prompt": "a", "steps": 26}, InvalidRequest, "steps", "nearest is 25"),
        ({**WAN, "steps": 5}, InvalidRequest, "steps", "nearest is 4"),
        ({**WAN, "guidance": 3}, InvalidRequest, "guidance", "leave guidance out"),
        ({"prompt": "a", "guidance": 0.5}, InvalidRequest, "guidance", "nearest is 1"),
        ({"prompt": "a", "seed": -1}, InvalidRequest, "seed", "nearest is 0"),
        ({"prompt": "a", "seed": 2**32}, InvalidRequest, "seed", f"nearest is {2**32 - 1}"),
        ({"prompt": "a", "seed": "dice"}, InvalidRequest, "seed", ""),
        ({"prompt": "a", "negative_prompt": "blur"}, InvalidRequest, "negative_prompt", "leave"),
        ({"prompt": "a", "input_reference": "x"}, InvalidRequest, "input_reference", "leave"),
        ({"prompt": "a", "stepz": 4}, InvalidRequest, "stepz", "did you mean steps"),
        ({"prompt": "a", "priority": 1000}, InvalidRequest, "priority", "0 is normal"),
        ({"prompt": "a", "hold": "maybe"}, InvalidRequest, "hold", ""),
        ({"prompt": "a", "project": "a/b"}, InvalidRequest, "project", ""),
        ({"prompt": "a", "tags": {"a": 1}}, InvalidRequest, "tags", "shot"),
    ],
)  # fmt: skip
def test_a_wrong_wish_is_told_what_would_be_right(
    body: dict[str, Any], error: type[FarmError], field: str, hint: str
) -> None:
    with pytest.raises(error) as caught:
        new_job(body, MODELS)
    assert caught.value.field == field
    assert hint in caught.value.next
    assert caught.value.message


def test_damaged_weights_are_no_fault_of_the_wish() -> None:
    def damaged(preset: Preset) -> str:
        raise CorruptWeights("vae.safetensors is damaged", "install it again")

    models = Models(MODELS.installed, "demo-t2v", damaged)
    with pytest.raises(WeightsUnusable) as caught:
        new_job({"prompt": "a kite"}, models)
    assert (caught.value.status, caught.value.next) == (503, "install it again")


def test_seconds_become_the_nearest_frames_and_come_back_as_asked() -> None:
    spec = new_job({**WAN, "seconds": "5"}, MODELS).spec
    assert (spec.frames, seconds_of(spec)) == (81, "5")


@given(st.floats(-1e7, 1e7), st.floats(-1e7, 1e7), st.sampled_from(sorted(PRESETS)))
def test_the_nearest_size_offered_is_itself_accepted(width: float, height: float, name: str) -> None:
    preset = PRESETS[name]
    w, h = nearest_size(width, height, preset)
    models = Models({name: preset}, name, lambda _: "")
    spec = new_job({"prompt": "a", "size": f"{w}x{h}"}, models).spec
    assert (spec.width, spec.height) == (w, h)


@given(st.floats(0.5, 5.0))
def test_seconds_always_make_4k_plus_1_frames(seconds: float) -> None:
    assert frames_of(seconds, PRESETS["wan2.1-t2v-1.3b"]) % 4 == 1


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.just("96x96"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(), VALUES, max_size=6), st.none() | st.text())
def test_any_json_is_accepted_or_refused_with_a_field_and_never_crashes(
    body: dict[str, Any], key: str | None
) -> None:
    try:
        spec = new_job(body, MODELS, idempotency_key=key).spec
    except InvalidRequest as error:
        said = f"{error.message} {error.next} {'names no field' if error.field is None else error.field}"
    else:
        said = spec.canonical()
    said.encode()  # what is stored or sent back must itself be valid text
    assert "names no field" not in said


def test_the_same_key_without_a_seed_asks_for_the_same_video() -> None:
    first, second = (new_job({"prompt": "a"}, MODELS, idempotency_key="shot 12") for _ in range(2))
    assert first.spec == second.spec
    assert first.spec.seed != new_job({"prompt": "a"}, MODELS, idempotency_key="shot 13").spec.seed


def test_a_batch_row_is_known_by_its_content_and_occurrence() -> None:
    first = batch_jobs("night", ["a kite", "a boat", "a kite"], MODELS)
    again = batch_jobs("night", ["a boat", "a kite", "a kite"], MODELS)
    assert {(j.idempotency_key, j.spec) for j in first} == {(j.idempotency_key, j.spec) for j in again}
    assert len({j.idempotency_key for j in first}) == 3
    assert first[0].spec.seed == seed_from_key(batch_row_key({"prompt": "a kite"}, 0))
    assert not first[0].interactive


@pytest.mark.parametrize("row", [{"prompt": "a", "tags": {"shot": "\ud800"}}, {"prompt": ["\ud800"]}])
def test_a_row_with_half_a_character_deep_inside_is_a_bad_row_and_no_crash(row: dict[str, Any]) -> None:
    with pytest.raises(BadRows):
        batch_jobs("night", [row], MODELS)


def test_every_bad_row_of_a_batch_is_reported_and_none_is_accepted() -> None:
    with pytest.raises(BadRows) as caught:
        batch_jobs("night", ["a kite", "", {"prompt": "a", "steps": 99}, 7], MODELS)
    assert [row for row, _ in caught.value.rows] == [2, 3, 4]
    assert "nothing was submitted" in caught.value.message
