"""Reading videos: every format gives the same frames, and whatever is wrong with a file is said in one sentence."""

import csv

import av
import numpy as np
import pytest
import torch
from PIL import Image

from latent_geodesics.core.errors import UserError, counted
from latent_geodesics.data import VideoData, read_video

SIZE = (32, 32)


def moving_square(frames=9, side=32):
    video = np.full((frames, side, side, 3), 90, dtype=np.uint8)
    for number in range(frames):
        video[number, 8:16, 2 * number : 2 * number + 8] = (200, 30, 30)
    return video


def write_mp4(file, video, codec="libx264rgb", options=None, flags=""):
    with av.open(str(file), "w", format="mp4", options={"movflags": flags} if flags else {}) as container:
        stream = container.add_stream(codec, rate=10, options=options or {"crf": "0"})
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "rgb24" if codec == "libx264rgb" else "yuv420p"
        for frame in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file


def write_gif(file, video):
    first, *others = [Image.fromarray(frame) for frame in video]
    first.save(file, save_all=True, append_images=others, duration=80)
    return file


def write_folder(folder, video):
    folder.mkdir()
    for number, frame in enumerate(video):
        Image.fromarray(frame).save(folder / f"{number:03d}.png")
    return folder


def as_tensor(video):
    return torch.from_numpy(video).permute(0, 3, 1, 2).float() / 255


@pytest.fixture
def long_mp4(tmp_path):
    """A video of many pictures that all cost bytes, its index in front, as streaming sites write them."""
    noise = np.random.default_rng(0).integers(0, 255, (60, 64, 64, 3), dtype=np.uint8)
    return write_mp4(tmp_path / "long.mp4", noise, codec="libx264", options={"crf": "20"}, flags="faststart")


def test_every_format_gives_the_frames_that_were_written(tmp_path):
    video = moving_square()
    files = [
        write_mp4(tmp_path / "a.mp4", video),
        write_gif(tmp_path / "a.gif", video),
        write_folder(tmp_path / "frames", video),
    ]
    for file in files:
        read = read_video(file, size=SIZE)
        assert read.dtype == torch.float32
        assert torch.equal(read, as_tensor(video)), file


def test_fewer_frames_are_evenly_spaced_and_hold_both_ends(tmp_path):
    video = moving_square(frames=9)
    read = read_video(write_mp4(tmp_path / "a.mp4", video), size=SIZE, frames=5)
    assert torch.equal(read, as_tensor(video[::2]))
    assert len(read_video(tmp_path / "a.mp4", size=SIZE, frames=40)) == 9


def test_frames_of_another_shape_are_cropped_around_their_centre(tmp_path):
    wide = np.zeros((4, 32, 64, 3), dtype=np.uint8)
    for number in range(4):
        wide[number, :, 16:48] = 40 * number + 50
    read = read_video(write_mp4(tmp_path / "wide.mp4", wide), size=(16, 16))
    assert read.shape == (4, 3, 16, 16)
    # The resampling filter reaches a few pixels over the edge.
    assert torch.equal(read[2, :, :, 3:-3], torch.full((3, 16, 10), 130 / 255))


def test_a_frame_that_repeats_the_one_before_is_left_out(tmp_path):
    video = moving_square()
    held = np.repeat(video, 3, axis=0)
    assert torch.equal(read_video(write_mp4(tmp_path / "held.mp4", held), size=SIZE), as_tensor(video))


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ""])
@pytest.mark.parametrize("frames", [1, 2])
def test_too_short_a_video_is_refused(tmp_path, suffix, frames):
    write = {".mp4": write_mp4, ".gif": write_gif, "": write_folder}[suffix]
    file = write(tmp_path / f"short{suffix}", moving_square(frames=frames))
    with pytest.raises(UserError, match=f"has {counted(frames, 'frame')}: .*at least 3"):
        read_video(file, size=SIZE)


def test_a_video_in_which_nothing_moves_is_refused(tmp_path):
    still = np.repeat(moving_square(frames=1), 8, axis=0)
    with pytest.raises(UserError, match="only 1 different frame"):
        read_video(write_mp4(tmp_path / "still.mp4", still), size=SIZE)


def test_frames_of_varying_size_are_refused(tmp_path):
    folder = write_folder(tmp_path / "frames", moving_square(frames=4))
    Image.new("RGB", (20, 24)).save(folder / "002.png")
    with pytest.raises(UserError, match=r"differ in size \(32 x 32 pixels at first, 20 x 24 in frame 3\)"):
        read_video(folder, size=SIZE)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_video_that_is_cut_short_is_refused(tmp_path, long_mp4, share):
    whole = long_mp4.read_bytes()
    short = tmp_path / "short.mp4"
    short.write_bytes(whole[: int(share * len(whole))])
    assert len(read_video(long_mp4, size=SIZE, frames=60)) == 60
    with pytest.raises(UserError, match="damaged or cut short"):
        read_video(short, size=SIZE)


def test_a_video_without_its_index_is_refused(tmp_path):
    whole = write_mp4(tmp_path / "whole.mp4", moving_square()).read_bytes()
    (tmp_path / "short.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged or cut short"):
        read_video(tmp_path / "short.mp4", size=SIZE)


def test_a_video_with_damage_inside_is_refused(tmp_path, long_mp4):
    # H.264 has no checksums: a few changed bits may decode to other pixels, many never do.
    broken = bytearray(long_mp4.read_bytes())
    middle = len(broken) // 2
    broken[middle:-100] = b"\xff" * (len(broken) - middle - 100)
    (tmp_path / "broken.mp4").write_bytes(broken)
    with pytest.raises(UserError, match="damaged or cut short"):
        read_video(tmp_path / "broken.mp4", size=SIZE)


@pytest.mark.parametrize("share", [0.4, 0.9, 0.999])
def test_a_gif_that_is_cut_short_is_refused(tmp_path, share):
    whole = write_gif(tmp_path / "whole.gif", moving_square()).read_bytes()
    (tmp_path / "short.gif").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match="damaged or cut short"):
        read_video(tmp_path / "short.gif", size=SIZE)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("nothing.mp4", b"", "empty"),
        ("words.mp4", b"this is no video" * 40, "damaged or cut short"),
        ("words.gif", b"this is no picture" * 40, "no video that can be read"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        read_video(tmp_path / name, size=SIZE)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_or_holds_no_frames_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_video(tmp_path / "nowhere.mp4", size=SIZE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has 0 frame"):
        read_video(tmp_path / "empty", size=SIZE)
    with pytest.raises(UserError, match=r"data\.frames must be at least 3"):
        read_video(write_mp4(tmp_path / "a.mp4", moving_square()), size=SIZE, frames=2)


def test_a_sound_without_pictures_is_refused(tmp_path):
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(UserError, match="holds no pictures"):
        read_video(tmp_path / "sound.wav", size=SIZE)


def test_videos_of_ones_own_take_the_place_of_the_manifest(tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    write_mp4(clips / "a.mp4", moving_square(frames=9))
    write_gif(clips / "b.gif", moving_square(frames=5))
    data = VideoData(manifest="unused.csv", video=clips, prompt="a red square", frames=9)
    assert [video.id for video in data.videos] == ["a", "b"]
    assert {(video.prompt_a, video.prompt_b, video.control) for video in data.videos} == {
        ("a red square",) * 2 + (False,)
    }
    batches = [data.read(videos, size=SIZE) for videos in data.batches(size=SIZE)]
    shapes = [tuple(batch.frames.shape[:2]) for batch in batches]
    assert shapes == [(1, 9), (1, 5)]
    frames = write_folder(tmp_path / "frames", moving_square())
    assert [video.id for video in VideoData(video=frames).videos] == ["frames"]


def write_manifest(folder, rows, columns=("id", "kind", "file", "prompt_a", "prompt_b", "control", "sha256")):
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return folder / "manifest.csv"


def row(**changes):
    return {"id": "one", "kind": "slide", "file": "a.mp4", "prompt_a": "a", "prompt_b": "b"} | changes


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "lists no videos"),
        ([row(file="b.mp4")], "does not exist"),
        ([row(), row()], "twice"),
        ([row(sha256="0" * 64)], "checksum"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused(tmp_path, rows, words):
    write_mp4(tmp_path / "a.mp4", moving_square())
    with pytest.raises(UserError, match=words):
        VideoData(manifest=write_manifest(tmp_path, rows))


def test_a_manifest_without_a_column_is_refused(tmp_path):
    with pytest.raises(UserError, match="kind"):
        VideoData(manifest=write_manifest(tmp_path, [], columns=("id", "file", "prompt_a", "prompt_b")))


@pytest.mark.parametrize(
    ("options", "words"),
    [({}, "No videos"), ({"prompt": "a"}, "without a video"), ({"video": "nowhere", "limit": 0}, "limit")],
)
def test_data_that_cannot_be_chosen_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        VideoData(**options)
