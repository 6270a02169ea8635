"""What is encoded can be trusted: its colours, tags and frames, and its absence when abandoned."""

import errno
import hashlib
import os
import random
from fractions import Fraction

import av
import numpy as np
import pytest

from farm.domain.errors import BrokenVideo, DiskFull, FolderUnusable
from farm.media.check import check_video, decode, read_metadata
from farm.media.encoder import Encoder

SIZE = (96, 96)
COLOURS = [(200, 30, 30), (30, 160, 60), (40, 60, 210), (230, 200, 40), (245, 245, 245), (20, 20, 20)]


def moving_square(n=17, size=SIZE, colour=(200, 30, 30), paper=(40, 60, 90)):
    width, height = size
    frames = np.empty((n, height, width, 3), np.uint8)
    frames[:] = paper
    for i in range(n):
        x = 4 + i * (width - 40) // n
        frames[i, 30:62, x : x + 32] = colour
    return frames


def encode(path, frames, fps=12, metadata=None, **kwargs):
    with Encoder(path, (frames.shape[2], frames.shape[1]), fps, **kwargs) as encoder:
        for part in np.array_split(frames, 3):  # frames arrive in chunks
            encoder.write(part)
        return encoder.close(metadata or {})


def test_what_close_says_is_true(tmp_path):
    video = encode(tmp_path / "v.mp4", moving_square())
    data = video.path.read_bytes()
    assert (video.sha256, video.bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert (video.frames, video.seconds) == (17, 17 / 12)
    assert os.listdir(tmp_path) == ["v.mp4"]
    check_video(video.path, 17, SIZE)
    assert decode(video.path).shape == (17, 96, 96, 3)


def test_it_is_what_browsers_and_editors_expect(tmp_path):
    video = encode(tmp_path / "v.mp4", moving_square(37, (160, 96)))
    data = video.path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "faststart"
    with av.open(str(video.path)) as container:
        assert len(container.streams) == 1
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", Fraction(12))
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (
            1,
            1,
            1,
            1,
        )
        frames = list(container.decode(stream))
    times = [frame.time for frame in frames]
    assert times == pytest.approx([i / 12 for i in range(37)]), "constant rate"
    assert {0, 12, 24, 36} <= {i for i, frame in enumerate(frames) if frame.key_frame}


def test_twenty_round_trips_move_no_colour(tmp_path):
    """Chroma that is put between two pixels and read at the left one slides, half a pixel a trip."""
    frames = np.full((5, 96, 96, 3), 128, np.uint8)
    frames[:, 30:60, 30:60] = (220, 38, 38)
    for i in range(20):
        frames = decode(encode(tmp_path / f"{i}.mp4", frames).path)
    redness = frames[2].astype(float)[..., 0] - frames[2][..., 1]
    y, x = np.mgrid[0:96, 0:96]
    centre = [(redness * at).sum() / redness.sum() for at in (x, y)]
    assert centre == pytest.approx([44.5, 44.5], abs=0.3)


def test_ten_round_trips_keep_solid_colours(tmp_path):
    """A wrong YUV matrix moves them by 20 levels at once, truncation by 14 in ten trips."""
    frames = np.empty((9, 96, 96, 3), np.uint8)
    for i, colour in enumerate(COLOURS):
        frames[:, 32 * (i // 3) : 32 * (i // 3) + 64, 32 * (i % 3) : 32 * (i % 3) + 32] = colour
    seen = frames
    for trip in range(10):
        path = tmp_path / f"{trip}.mp4"
        encode(path, seen)
        seen = decode(path)
    for i in range(6):
        y, x = (8, 16 + 32 * i) if i < 3 else (64, 16 + 32 * (i - 3))
        before, after = frames[:, y - 4 : y + 4, x - 4 : x + 4], seen[:, y - 4 : y + 4, x - 4 : x + 4]
        assert np.abs(before.mean((0, 1, 2)) - after.mean((0, 1, 2))).max() <= 3, COLOURS[i]


def test_tags_survive_in_any_script(tmp_path):
    tags = {"prompt": "一只红色的风筝飞过沙丘 🪁", "job": "job_abc", "seed": "7", "comment": "沙丘"}
    video = encode(tmp_path / "v.mp4", moving_square(), metadata=tags)
    assert tags.items() <= read_metadata(video.path).items()


def test_an_abandoned_encoder_leaves_no_file(tmp_path):
    with Encoder(tmp_path / "v.mp4", SIZE, 12) as encoder:
        encoder.write(moving_square())
    assert os.listdir(tmp_path) == []
    with pytest.raises(ValueError, match="is not uint8"), Encoder(tmp_path / "v.mp4", SIZE, 12) as encoder:
        encoder.write(np.zeros((1, 2, 3, 3), np.uint8))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "error"), [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EROFS, FolderUnusable)]
)
def test_a_disk_that_takes_no_more_is_named_and_nothing_is_left(tmp_path, monkeypatch, number, error):
    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    encoder = Encoder(tmp_path / "v.mp4", SIZE, 12)
    encoder.write(moving_square())
    with pytest.raises(error) as caught:
        encoder.close({})
    assert caught.value.next
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device that is always full")
def test_a_disk_that_fills_under_ffmpeg_is_named(tmp_path, monkeypatch):
    full = tmp_path / "full.mp4"
    full.symlink_to("/dev/full")
    monkeypatch.setattr("farm.media.encoder.tempfile.mkstemp", lambda **_: (os.dup(1), str(full)))
    encoder = Encoder(tmp_path / "v.mp4", SIZE, 12)
    encoder.write(moving_square())
    with pytest.raises(DiskFull, match="is full"):
        encoder.close({})
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FolderUnusable, match="nowhere"):
        Encoder(tmp_path / "nowhere" / "v.mp4", SIZE, 12)


def test_closing_without_frames_or_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one frame"):
        Encoder(tmp_path / "v.mp4", SIZE, 12).close({})
    encoder = Encoder(tmp_path / "v.mp4", SIZE, 12)
    encoder.write(moving_square())
    encoder.close({})
    with pytest.raises(ValueError, match="is closed"):
        encoder.close({})
    assert os.listdir(tmp_path) == ["v.mp4"]


@pytest.mark.parametrize("size", [(95, 96), (96, 95), (0, 96)])
def test_sides_that_the_format_cannot_have_are_refused(tmp_path, size):
    with pytest.raises(ValueError, match="even sides"):
        Encoder(tmp_path / "v.mp4", size, 12)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 96, 64, 3), np.uint8),
        np.zeros((2, 96, 96, 3), np.float32),
        np.zeros((96, 96, 3), np.uint8),
    ],
)
def test_frames_of_another_shape_or_type_are_refused(tmp_path, frames):
    with Encoder(tmp_path / "v.mp4", SIZE, 12) as encoder, pytest.raises(ValueError, match="is not uint8"):
        encoder.write(frames)


def test_a_video_with_frames_missing_is_broken(tmp_path):
    video = encode(tmp_path / "v.mp4", moving_square(16))
    with pytest.raises(BrokenVideo, match="16 of 17 frames"):
        check_video(video.path, 17, SIZE)


def test_a_video_of_another_size_is_broken(tmp_path):
    video = encode(tmp_path / "v.mp4", moving_square())
    with pytest.raises(BrokenVideo, match="96x96"):
        check_video(video.path, 17, (832, 480))


@pytest.mark.parametrize("damage", ["cut", "flipped", "not a video", "empty"])
def test_a_damaged_file_is_broken(tmp_path, damage):
    video = encode(tmp_path / "v.mp4", moving_square(49))
    data = bytearray(video.path.read_bytes())
    start = data.index(b"mdat") + 4
    if damage == "cut":
        data = data[: (start + len(data)) // 2]
    elif damage == "flipped":
        middle = (start + len(data)) // 2
        data[middle : middle + 200] = random.Random(0).randbytes(200)
    else:
        data = bytearray(b"hello" if damage == "not a video" else b"")
    video.path.write_bytes(data)
    with pytest.raises(BrokenVideo):
        check_video(video.path, 49, SIZE)


def test_black_is_broken_and_night_is_not(tmp_path):
    black = encode(tmp_path / "b.mp4", np.zeros((9, 96, 96, 3), np.uint8))
    with pytest.raises(BrokenVideo, match="black"):
        check_video(black.path, 9, SIZE)
    night = encode(tmp_path / "n.mp4", moving_square(9, colour=(40, 40, 50), paper=(0, 0, 0)))
    check_video(night.path, 9, SIZE)


def test_frozen_noise_is_broken_and_stills_and_rain_are_not(tmp_path):
    noise = np.random.default_rng(1).integers(0, 256, (9, 96, 96, 3), np.uint8)
    frozen = encode(tmp_path / "f.mp4", np.repeat(noise[:1], 9, axis=0))
    with pytest.raises(BrokenVideo, match="noise"):
        check_video(frozen.path, 9, SIZE)
    check_video(encode(tmp_path / "rain.mp4", noise).path, 9, SIZE)
    still = np.repeat(moving_square(1), 9, axis=0)
    check_video(encode(tmp_path / "still.mp4", still).path, 9, SIZE)


def test_tags_of_no_video_are_an_error_not_nothing(tmp_path):
    (tmp_path / "v.mp4").write_bytes(b"hello")
    with pytest.raises(BrokenVideo, match="cannot be read"):
        read_metadata(tmp_path / "v.mp4")
