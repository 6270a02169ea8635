"""Every wish is accepted whole or refused with one field, one message and the nearest valid value."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.domain.errors import FarmError, InvalidRequest, PromptRefused, UnknownModel
from farm.domain.fields import FIELDS
from farm.domain.job import JobSpec, Requires, batch_row_key, seed_from_key
from farm.domain.prompt import hint
from farm.domain.request import (
    BadRows,
    Models,
    WeightsUnusable,
    batch_jobs,
    new_job,
)
from farm.domain.shape import frames_of, seconds_of
from model.errors import CorruptWeights
from model.wan.config import PRESETS, Preset
from model.wan.sizes import nearest_size

INSTALLED = ("demo-t2v", "wan2.1-t2v-1.3b", "wan2.2-i2v-a14b", "wan2.1-t2v-14b-base")
INSTALLED = ("demo-t2v", "wan2.1-t2v-1.3b", "wan2.2-i2v-a14b", "wan2.1-t2v-14b-base")
MODELS = Models(
    installed={name: PRESETS[name] for name in INSTALLED},
    default="demo-t2v",
    digest=lambda preset: f"digest of {preset.name}",
)
WAN = {"prompt": "a kite", "model": "wan2.1-t2v-1.3b"}
BASE = {"prompt": "a kite", "model": "wan2.1-t2v-14b-base"}
IMAGE = "ab" * 32
I2V = {"prompt": "it moves", "model": "wan2.2-i2v-a14b", "image": IMAGE}


def test_a_prompt_alone_takes_every_default_of_the_model() -> None:
    spec = new_job({"prompt": "  a red kite  "}, MODELS).spec
    assert (spec.prompt, spec.model, spec.width, spec.height) == ("a red kite", "demo-t2v", 192, 192)
    assert (spec.frames, spec.fps, spec.steps, spec.guidance) == (33, 16, 4, 1.0)
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
        ({"prompt": "a", "size": "128x128"}, InvalidRequest, "size", "use 192x192"),
        ({"prompt": "a", "size": "large"}, InvalidRequest, "size", "use 192x192"),
        ({"prompt": "a", "size": "-96x96"}, InvalidRequest, "size", "use 192x192"),
        ({**WAN, "size": "830x480"}, InvalidRequest, "size", "832x480"),
        ({**WAN, "size": "4000x2250"}, InvalidRequest, "size", "is 960x960"),
        ({**WAN, "size": "64x480"}, InvalidRequest, "size", "256x480"),
        ({"prompt": "a", "frames": 17}, InvalidRequest, "frames", "nearest is 33"),
        ({**WAN, "frames": 16}, InvalidRequest, "frames", "nearest is 17"),
        ({**WAN, "frames": 400}, InvalidRequest, "frames", "nearest is 81"),
        ({**WAN, "frames": 1}, InvalidRequest, "frames", "nearest is 5"),
        ({"prompt": "a", "frames": 17.5}, InvalidRequest, "frames", ""),
        ({"prompt": "a", "frames": True}, InvalidRequest, "frames", ""),
        ({"prompt": "a", "frames": 17, "seconds": "1"}, InvalidRequest, "frames", "leave one"),
        ({"prompt": "a", "seconds": 9}, InvalidRequest, "seconds", "use seconds 2 (frames 33)"),
        ({**WAN, "seconds": 9}, InvalidRequest, "seconds", "0.25 to 5 (frames 5 to 81)"),
        ({**WAN, "seconds": 0}, InvalidRequest, "seconds", "0.25 to 5"),
        ({"prompt": "a", "seconds": math.nan}, InvalidRequest, "seconds", ""),
        ({"prompt": "a", "steps": 0}, InvalidRequest, "steps", "nearest is 1"),
        ({**BASE, "steps": 126}, InvalidRequest, "steps", "nearest is 100"),
        ({**WAN, "steps": 5}, InvalidRequest, "steps", "nearest is 4"),
        ({**WAN, "guidance": 3}, InvalidRequest, "guidance", "leave guidance out"),
        ({**BASE, "guidance": 0.5}, InvalidRequest, "guidance", "nearest is 1"),
        ({"prompt": "a", "seed": -1}, InvalidRequest, "seed", "nearest is 0"),
        ({"prompt": "a", "seed": 2**32}, InvalidRequest, "seed", f"nearest is {2**32 - 1}"),
        ({"prompt": "a", "seed": "dice"}, InvalidRequest, "seed", ""),
        ({"prompt": "a", "negative_prompt": "blur"}, InvalidRequest, "negative_prompt", "leave"),
        ({"prompt": "a", "input_reference": "x"}, InvalidRequest, "input_reference", "leave"),
        ({"prompt": "a", "image": IMAGE}, InvalidRequest, "image", "leave"),
        ({"prompt": "a", "fit": "pad"}, InvalidRequest, "fit", "leave"),
        ({**I2V, "image": None}, InvalidRequest, "image", "--image"),
        ({**I2V, "image": "cat.png"}, InvalidRequest, "image", "/api/images"),
        ({**I2V, "image": "cd" * 32}, InvalidRequest, "image", "/api/images"),
        ({**I2V, "input_reference": IMAGE}, InvalidRequest, "image", "leave one"),
        ({**I2V, "fit": "squeeze"}, InvalidRequest, "fit", "pad adds bars"),
        ({**I2V, "negative_prompt": "blur"}, InvalidRequest, "negative_prompt", "leave"),
        ({**BASE, "negative_prompt": "a\x00"}, InvalidRequest, "negative_prompt", "UTF-8"),
        ({**BASE, "negative_prompt": 3}, InvalidRequest, "negative_prompt", "should not be seen"),
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
        new_job(body, MODELS, images={IMAGE: (1200, 1600)}.get)
    assert caught.value.field == field
    assert hint in caught.value.next
    assert caught.value.message


def test_a_job_from_an_image_takes_its_shape_at_the_model_s_area_and_says_so() -> None:
    wish = new_job(I2V, MODELS, images={IMAGE: (1200, 1600)}.get)
    spec = wish.spec
    assert (spec.kind, spec.image, spec.fit) == ("i2v", IMAGE, "crop")
    assert (spec.width, spec.height) == (832, 1104)
    assert wish.note == "The video is 832x1104, after the shape of the image; a size fixes it."
    fixed = new_job({**I2V, "size": "1280x720", "fit": "pad"}, MODELS, images={IMAGE: (1200, 1600)}.get)
    assert (fixed.spec.width, fixed.spec.height, fixed.spec.fit, fixed.note) == (1280, 720, "pad", None)


def test_an_undistilled_model_takes_a_negative_prompt_and_guidance() -> None:
    spec = new_job({**BASE, "negative_prompt": " 模糊 ", "guidance": 7}, MODELS).spec
    assert (spec.negative_prompt, spec.guidance) == ("模糊", 7.0)
    assert new_job(BASE, MODELS).spec.negative_prompt is None


def test_a_spec_of_before_these_fields_is_still_spelled_and_read_as_it_was() -> None:
    spec = new_job({"prompt": "a kite", "seed": 1}, MODELS).spec
    said = spec.canonical()
    assert not {"image", "fit", "negative_prompt"} & set(json.loads(said))
    assert JobSpec.from_json(said) == spec
    full = new_job({**I2V, "fit": "pad"}, MODELS, images={IMAGE: (9, 9)}.get).spec
    assert JobSpec.from_json(full.canonical()) == full


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
    body = {"prompt": "a", "size": f"{w}x{h}", **({"image": IMAGE} if preset.task == "i2v" else {})}
    spec = new_job(body, models, images={IMAGE: (640, 480)}.get).spec
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


# -- when and where


A, B = "job_aaaaaaaaaaaa", "job_bbbbbbbbbbbb"


@pytest.mark.parametrize(
    ("said", "needs"),
    [
        (None, []),
        (A, [(A, "success")]),
        (f"{A}, {B}", [(A, "success"), (B, "success")]),
        ([A, {"job": B, "after": "any"}], [(A, "success"), (B, "any")]),
        ({"job": "aaaaaa"}, [("aaaaaa", "success")]),
    ],
)
def test_a_job_may_wait_for_others(said: Any, needs: list[tuple[str, str]]) -> None:
    job = new_job({"prompt": "a kite", "depends_on": said}, MODELS)
    assert [(one.needs, one.after) for one in job.depends_on] == needs


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ([7], "ids of jobs"),
        ("the last one", "ids of jobs"),
        ([{"job": A, "after": "dawn"}], '"success" or "any"'),
        ([{"job": A, "after": ["any"]}], '"success" or "any"'),
        ([{"job": A, "if": "any"}], '"success" or "any"'),
        ([A] * 65, "at most 64"),
        ("row:2", "row of a batch"),
        ("key:k", "ids of jobs"),
    ],
)
def test_what_is_no_job_to_wait_for_is_refused(said: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        new_job({"prompt": "a kite", "depends_on": said}, MODELS)
    assert caught.value.field == "depends_on"
    assert caught.value.next


def test_a_row_may_wait_for_another_row_by_its_number() -> None:
    rows = ["a kite", {"prompt": "a boat", "depends_on": ["row:1", A]}, {"prompt": "last", "depends_on": "row:2"}]
    kite, boat, last = batch_jobs("b", rows, MODELS)
    assert [one.needs for one in boat.depends_on] == [f"key:{kite.idempotency_key}", A]
    assert [one.needs for one in last.depends_on] == [f"key:{boat.idempotency_key}"]


def test_rows_in_a_ring_or_without_their_row_are_all_named() -> None:
    rows = [
        {"prompt": "a", "depends_on": "row:2"},
        {"prompt": "b", "depends_on": "row:1"},
        {"prompt": "c", "depends_on": "row:3"},
        {"prompt": "d", "depends_on": "row:9"},
        {"prompt": "e", "depends_on": "row:1"},
    ]
    with pytest.raises(BadRows) as caught:
        batch_jobs("b", rows, MODELS)
    assert [row for row, _ in caught.value.rows] == [1, 2, 3, 4]
    assert ["ring" in error.message for _, error in caught.value.rows] == [True, True, False, False]
    assert "no row 9" in caught.value.rows[3][1].message


@pytest.mark.parametrize(
    ("said", "requires"),
    [
        ({}, None),
        ({"tags": ["b", "a", "a"]}, Requires(tags=("a", "b"))),
        ({"tags": "a"}, Requires(tags=("a",))),
        ({"pool": "film", "gpus": 2}, Requires(pool="film", gpus=2)),
        ({"memory": "40GB"}, Requires(memory=40 * 10**9)),
        ({"memory": "1.5 GiB"}, Requires(memory=3 * 2**29)),
        ({"memory": 10**10}, Requires(memory=10**10)),
    ],
)
def test_a_job_may_require_a_kind_of_worker(said: Any, requires: Requires | None) -> None:
    assert new_job({"prompt": "a kite", "requires": said}, MODELS).requires == requires


@pytest.mark.parametrize(
    "said",
    [
        "a100",
        {"colour": "red"},
        {"tags": 7},
        {"tags": [""]},
        {"tags": ["a"] * 17},
        {"pool": ["film"]},
        {"memory": "lots"},
        {"memory": "-4GB"},
        {"memory": "4 parsecs"},
        {"memory": True},
        {"gpus": 0},
        {"gpus": 1.5},
    ],
)
def test_what_no_worker_can_have_is_refused(said: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        new_job({"prompt": "a kite", "requires": said}, MODELS)
    assert caught.value.field == "requires"
    assert caught.value.next


@pytest.mark.parametrize(
    ("body", "size"),
    [
        ({**WAN, "aspect": "16:9"}, (848, 480)),
        ({**WAN, "aspect": "9:16"}, (480, 848)),
        ({**WAN, "aspect": "1:1"}, (624, 624)),
        ({**WAN, "aspect": "2.39:1"}, (976, 416)),
        ({**I2V, "aspect": "4/3"}, (1104, 832)),
        ({"prompt": "a", "aspect": "1:1"}, None),
    ],
)
def test_an_aspect_is_the_nearest_size_of_as_many_pixels(
    body: dict[str, Any], size: tuple[int, int] | None
) -> None:
    wish = new_job(body, MODELS, images=lambda digest: (100, 100))
    assert (wish.spec.width, wish.spec.height) == (size or PRESETS["demo-t2v"].size)
    assert wish.note is not None
    assert body["aspect"] in wish.note


def test_quality_and_ode_belong_to_distilled_models() -> None:
    spec = new_job({**WAN, "quality": "best", "ode": True}, MODELS).spec
    assert (spec.quality, spec.ode) == ("best", True)
    assert "quality" not in new_job(WAN, MODELS).spec.canonical(), "a spec is spelled as it was"
    for body, field in (
        ({**BASE, "quality": "best"}, "quality"),
        ({**BASE, "ode": True}, "ode"),
        ({**WAN, "quality": "superb"}, "quality"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            new_job(body, MODELS)
        assert (caught.value.field, bool(caught.value.next)) == (field, True)


@pytest.mark.parametrize("value", ["tomorrow", "2026-01-31T22:00", 7, "9999-01-01T00:00Z", "2026-02-30T00:00Z"])
def test_a_moment_must_exist_and_name_its_zone(value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        new_job({"prompt": "a", "not_before": value}, MODELS)
    assert caught.value.field == "not_before"


def test_a_moment_is_kept_in_utc() -> None:
    wish = new_job({"prompt": "a", "not_before": "2026-01-31T22:00:00+08:00"}, MODELS)
    assert wish.not_before is not None
    assert wish.not_before.isoformat() == "2026-01-31T14:00:00+00:00"


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a kite", "long descriptions"),
        ("风筝", "long descriptions"),
        ("红色风筝在沙丘上空慢慢飘动", None),
        ("a red kite drifts over pale dunes in the low sun", None),
        ("красный воздушный змей над дюнами на закате солнца", "English and Chinese"),
    ],
)
def test_a_prompt_that_a_model_of_captions_makes_little_of_gets_a_hint(prompt: str, said: str | None) -> None:
    told = hint(new_job({**WAN, "prompt": prompt}, MODELS).spec)
    assert (told is None) if said is None else (told is not None and said in told)
