"""A video says how it was made, in any program's copy of it, and to anybody who reads it without a decoder."""

import io
import json
import random
import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from farm.domain.errors import TagsLost
from farm.domain.job import JobSpec
from farm.domain.provenance import read_back, tags_of
from farm.domain.version import VERSION
from farm.media.check import check_tags, read_metadata
from farm.media.encoder import Encoder
from farm.media.mp4 import NotAnMp4, read_mp4, read_tags

PROMPTS = (
    "a red kite over dunes", "一只红色的风筝飞过沙丘", "白色背景，小的青色圆环静止 🪁", 'quotes " and \\ back',
    "two\nlines\tand a tab", "Ünïcödé ñandú Ω", "🏳️‍🌈 emoji with joiners", "{\"not\": \"json\"}", "x" * 3000,
    "日本語とひらがな",
)  # fmt: skip


def spec_of(number: int) -> JobSpec:
    dice = random.Random(number)
    return JobSpec(
        kind="t2v", model="demo-t2v", model_digest=f"{dice.getrandbits(256):064x}",
        prompt=PROMPTS[number % len(PROMPTS)], width=32, height=32, frames=5, fps=8 + number % 9,
        steps=1 + number % 25, seed=dice.getrandbits(32), guidance=1 + number / 7,
        negative_prompt=None if number % 3 else "模糊",
        image=None if number % 4 else f"{number:064x}", fit="pad" if number % 4 == 0 else "crop",
    )  # fmt: skip


def make(path: Path, tags: dict[str, str], fps: int = 8, side: int = 32) -> Path:
    frames = np.zeros((5, side, side, 3), np.uint8)
    for i in range(5):
        frames[i, 8:24, 2 * i : 2 * i + 12] = 200
    with Encoder(path, (side, side), fps, preset="ultrafast") as encoder:
        encoder.write(frames)
        encoder.close(tags)
    return path


def remuxed(path: Path, kind: str, **options: str) -> Path:
    """As `ffmpeg -i path -c copy` makes it."""
    copy = path.with_name(f"copy.{kind}")
    with av.open(str(path)) as source, av.open(str(copy), "w", format=kind, options=options) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        target.metadata.update(source.metadata)
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return copy


def test_what_fifty_videos_say_about_themselves_reads_back_equal(tmp_path: Path) -> None:
    for number in range(50):
        spec = spec_of(number)
        expanded = None if number % 5 else f"{spec.prompt}, 电影感, golden hour"
        tags = tags_of(f"job_{number:012d}", spec, expanded, "" if number % 2 else "示例工作室")
        path = make(tmp_path / "v.mp4", tags, spec.fps)
        check_tags(path, tags)
        assert tags.items() <= read_metadata(path).items()
        told = read_back(read_tags(path))
        assert told is not None
        assert JobSpec(**told.settings) == spec
        assert (told.job, told.version, told.expanded_prompt) == (f"job_{number:012d}", VERSION, expanded)
        assert told.label["ContentProducer"] == ("turbofarm" if number % 2 else "示例工作室")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mp4", {}),
        ("mp4", {"movflags": "use_metadata_tags+faststart"}),
        ("mp4", {"movflags": "frag_keyframe+empty_moov"}),
        ("mov", {}),
    ],
)
def test_a_copy_into_another_container_still_tells(tmp_path: Path, kind: str, options: dict[str, str]) -> None:
    spec = spec_of(1)
    told = read_back(read_tags(remuxed(make(tmp_path / "v.mp4", tags_of("job_a", spec)), kind, **options)))
    assert told is not None
    assert (JobSpec(**told.settings), told.job, told.label["Label"]) == (spec, "job_a", "1")


def test_the_label_has_the_fields_of_the_standard(tmp_path: Path) -> None:
    tags = read_tags(make(tmp_path / "v.mp4", tags_of("job_a", spec_of(0), None, "0012345")))
    assert json.loads(tags["AIGC"]) == {
        "Label": "1", "ContentProducer": "0012345", "ProduceID": "job_a", "ReservedCode1": "",
        "ContentPropagator": "", "PropagateID": "", "ReservedCode2": "",
    }  # fmt: skip


def test_tags_that_were_lost_are_noticed(tmp_path: Path) -> None:
    path = make(tmp_path / "v.mp4", {"prompt": "a kite"})
    with pytest.raises(TagsLost, match="seed"):
        check_tags(path, {"prompt": "a kite", "seed": "7"})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(TagsLost, match="cannot be read"):
        check_tags(path, {})


def test_the_reader_knows_tracks_length_and_order(tmp_path: Path) -> None:
    path = make(tmp_path / "v.mp4", {})
    with path.open("rb") as file:
        video = read_mp4(file)
    assert video.video is not None
    assert (video.video.codec, video.video.frames, video.video.width, video.video.height) == ("avc1", 5, 32, 32)
    assert video.seconds == pytest.approx(5 / 8, abs=0.01)
    assert (video.has_sound, video.faststart, video.missing) == (False, True, 0)
    with remuxed(path, "mp4").open("rb") as file:
        assert not read_mp4(file).faststart


def test_the_first_part_of_a_file_is_enough_and_what_is_missing_is_counted(tmp_path: Path) -> None:
    data = make(tmp_path / "v.mp4", tags_of("job_a", spec_of(0))).read_bytes()
    head = data[: data.index(b"mdat") + 10]
    video = read_mp4(io.BytesIO(head))
    assert (video.tags["job"], video.missing) == ("job_a", len(data) - len(head))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(60), struct.pack(">I4s", 8, b"ftyp"),
        struct.pack(">I4sIQ", 1, b"ftyp", 0, 2**63) + bytes(20),
        struct.pack(">I4s8x", 16, b"ftyp") + struct.pack(">I4s", 2**31, b"moov") + bytes(64),
        struct.pack(">I4s8x", 16, b"ftyp") + struct.pack(">I4s", 3, b"moov"),
    ],
)  # fmt: skip
def test_what_is_no_video_is_refused(data: bytes) -> None:
    with pytest.raises(NotAnMp4):
        read_mp4(io.BytesIO(data))


def test_damaged_headers_never_crash_or_stall_the_reader(tmp_path: Path) -> None:
    whole = make(tmp_path / "v.mp4", tags_of("job_a", spec_of(0))).read_bytes()
    header = whole.index(b"mdat")
    dice = random.Random(7)
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 6)):
            at = dice.randrange(header)
            data[at : at + 4] = dice.choice([b"\xff\xff\xff\xff", bytes(4), b"\0\0\0\1", dice.randbytes(4)])
        try:
            told = read_back(read_mp4(io.BytesIO(data)).tags)
        except NotAnMp4:
            continue
        assert told is None or isinstance(told.wish, dict)


@pytest.mark.parametrize(
    "tags",
    [{}, {"comment": "a holiday"}, {"comment": "[1]"}, {"settings": '{"prompt": 7}'}, {"comment": "[" * 100_000}],
)
def test_tags_of_other_programs_are_not_taken_for_ours(tags: dict[str, str]) -> None:
    assert read_back(tags) is None


def test_only_plain_values_come_out_of_a_foreign_file() -> None:
    settings: dict[str, Any] = {"prompt": "a", "seed": {"$": 1}, "width": "x", "tags": [1], "steps": 4}
    told = read_back({"settings": json.dumps(settings), "AIGC": "7"})
    assert told is not None
    assert told.wish == {"prompt": "a", "steps": 4}
    assert told.label == {}
