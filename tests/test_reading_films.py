"""Films are read as a player shows them, by the rules that stills are read by, whatever file they come from."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from latent_geodesics.core.errors import UserError
from latent_geodesics.data import read_image, read_video
from latent_geodesics.data.videos import read_film

SIZE = (32, 32)
COLOURS = ((200, 30, 60), (30, 180, 90), (40, 60, 220), (255, 255, 255), (0, 0, 0))


def squares(frames=6, height=32, width=32):
    """A square that moves, in a picture whose four corners differ."""
    video = np.full((frames, height, width, 3), 90, dtype=np.uint8)
    video[:, :8, :8], video[:, -8:, :8], video[:, :8, -8:] = 255, (0, 255, 0), (0, 0, 255)
    for number in range(frames):
        video[number, 12:18, 8 + 2 * number : 14 + 2 * number] = (200, 30, 30)
    return video


def as_tensor(video):
    return torch.from_numpy(np.ascontiguousarray(video)).permute(0, 3, 1, 2).float() / 255


def write(file, video, *, codec="libx264rgb", pixels="rgb24", times=None, prepare=None, options=None, matrix=None):
    """Writes a video; `times` are in tenths of a second, `prepare` changes the stream before the first frame."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options or ({"crf": "0"} if "264" in codec else {}))
        stream.height, stream.width, stream.pix_fmt = *video.shape[1:3], pixels
        if prepare:
            prepare(stream)
        for number, picture in enumerate(video):
            frame = av.VideoFrame.from_ndarray(picture, format="rgba" if video.shape[-1] == 4 else "rgb24")
            if matrix:
                frame = frame.reformat(format=pixels, dst_colorspace=matrix)
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


def write_frames(folder, video, name="{}.png", **options):
    folder.mkdir(exist_ok=True)
    for number, frame in enumerate(video):
        Image.fromarray(frame).save(folder / name.format(number), **options)
    return folder


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_the_turn_and_the_mirror_of_a_container_are_applied(tmp_path, turns, mirror):
    video = squares(height=32, width=48)
    file = write(
        tmp_path / "a.mp4", video, prepare=lambda stream: stream.set_display_rotation(90 * turns, hflip=mirror)
    )
    shown = np.rot90(video, turns, axes=(1, 2))
    shown = shown[:, :, ::-1] if mirror else shown
    assert torch.equal(read_video(file, size=shown.shape[1:3]), as_tensor(shown))


def test_a_turn_by_another_angle_is_refused(tmp_path):
    file = write(tmp_path / "a.mp4", squares(), prepare=lambda stream: stream.set_display_rotation(30))
    with pytest.raises(UserError, match="turned by 30 degrees"):
        read_video(file, size=SIZE)


@pytest.mark.parametrize("turned", [False, True])
def test_pixels_that_are_not_square_are_shown_as_wide_as_they_are(tmp_path, turned):
    def prepare(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        if turned:
            stream.set_display_rotation(90)

    video = np.zeros((4, 32, 32, 3), dtype=np.uint8)
    video[:, :, 8:24] = 255 - 20 * np.arange(4, dtype=np.uint8)[:, None, None, None]
    file = write(tmp_path / "a.mp4", video, prepare=prepare)
    # Shown 64 x 32, or 32 x 64: the middle square is what is white in the stored middle half.
    read = read_video(file, size=SIZE)
    inside = read[:, :, 6:-6, 6:-6]  # the resampling filter reaches over the edge
    assert torch.equal(inside[1], torch.full_like(inside[1], 235 / 255))
    wide = read_video(file, size=(64, 32) if turned else (32, 64))
    white = (wide[0, 0] > 0.5).any(1 if turned else 0)
    assert int(white.sum()) == 32


def test_a_name_tells_the_order_of_frames_by_its_number(tmp_path):
    video = squares(frames=12)
    assert torch.equal(read_video(write_frames(tmp_path / "f", video, "frame{}.png"), size=SIZE), as_tensor(video))


def test_frames_are_turned_before_their_sizes_are_compared(tmp_path):
    video = squares(frames=4, height=32, width=48)
    folder = write_frames(tmp_path / "f", video)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.rot90(video[1]).copy()).save(folder / "1.png", exif=exif)
    assert torch.equal(read_video(folder, size=(32, 48)), as_tensor(video))
    Image.fromarray(video[1]).save(folder / "1.png", exif=exif)
    with pytest.raises(UserError, match=r"48 x 32 pixels at first, 32 x 48 in frame 2"):
        read_video(folder, size=(32, 48))


def test_an_animation_among_frames_is_refused(tmp_path):
    folder = write_frames(tmp_path / "f", squares(frames=4))
    Image.new("RGB", SIZE).save(folder / "2.png", save_all=True, append_images=[Image.new("RGB", SIZE, "red")])
    with pytest.raises(UserError, match=r"2\.png' holds 2 pictures"):
        read_video(folder, size=SIZE)


@pytest.fixture
def clear():
    """A red shape that moves over nothing, and what that looks like."""
    video = np.zeros((6, 32, 32, 4), dtype=np.uint8)
    for number in range(6):
        video[number, 8:16, 4 * number : 4 * number + 8] = (255, 0, 0, 255)
        video[number, 8, 4 * number] = 0
    shown = np.where(video[..., 3:] == 255, video[..., :3], np.uint8(255))
    return video, as_tensor(shown)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.gif", {"disposal": 2}),
        ("a.png", {"disposal": 1, "blend": 0}),
        ("a.png", {"default_image": True, "disposal": 1}),
        ("a.webp", {"lossless": True}),
        ("a.tif", {}),
        ("misnamed.mp4", {"format": "GIF", "disposal": 2}),
    ],
)
def test_transparent_animations_show_white_as_stills_do(tmp_path, clear, name, options):
    frames = [Image.fromarray(frame) for frame in clear[0]]
    # A PNG may keep one more picture for those who cannot show it animated.
    first = Image.new("RGBA", SIZE, "blue") if "default_image" in options else frames.pop(0)
    first.save(tmp_path / name, save_all=True, append_images=frames, **options)
    assert torch.equal(read_video(tmp_path / name, size=SIZE), clear[1])


def test_what_a_frame_leaves_standing_stays(tmp_path):
    frames = [Image.new("RGBA", SIZE, (0, 0, 0, 0)) for _ in range(4)]
    for number, frame in enumerate(frames):
        frame.paste((255, 0, 0, 255), (8 * number, 0, 8 * number + 8, 32))
    for name, options in (("a.gif", {"disposal": 1}), ("a.png", {"disposal": 0, "blend": 1})):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        red = (read_video(tmp_path / name, size=SIZE)[:, 1] == 0).float().mean((1, 2))
        assert red.tolist() == [0.25, 0.5, 0.75, 1.0]


def test_a_transparent_video_shows_white(tmp_path, clear):
    fast = {"cpu-used": "8", "deadline": "realtime", "crf": "4", "b": "0"}
    file = write(tmp_path / "a.webm", clear[0], codec="libvpx-vp9", pixels="yuva420p", options=fast)
    read = read_video(file, size=SIZE)
    assert read.shape == clear[1].shape
    assert (read - clear[1]).abs().mean() < 0.02
    assert read[0, :, -1, -1].tolist() == [1, 1, 1]


def test_stills_and_films_of_the_same_frames_are_the_same(tmp_path, clear):
    folder = write_frames(tmp_path / "f", clear[0])
    stills = torch.stack([read_image(folder / f"{number}.png", size=(16, 24)) for number in range(6)])
    assert torch.equal(read_video(folder, size=(16, 24)), stills)
    file = write(tmp_path / "a.mkv", clear[0], codec="ffv1", pixels="bgra")
    assert torch.equal(read_video(file, size=(16, 24)), stills)


@pytest.mark.parametrize(
    ("pixels", "space", "span", "width"),
    [
        ("yuv444p", 6, 1, 32), ("yuv444p", 1, 1, 32), ("yuv444p", 9, 1, 32), ("yuvj444p", 1, 2, 32),
        ("yuv444p10le", 1, 1, 32), ("yuv444p", 2, 0, 32), ("yuv444p", 2, 0, 1280),
    ],
)  # fmt: skip
def test_colours_are_those_of_the_matrix_and_range_of_the_file(tmp_path, pixels, space, span, width):
    matrix = {1: "ITU709", 6: "ITU601", 9: "BT2020", 2: "ITU709" if width > 720 else "ITU601"}[space]

    def prepare(stream):
        stream.codec_context.colorspace, stream.codec_context.color_range = space, span

    video = np.stack([np.full((16, width, 3), colour, dtype=np.uint8) for colour in COLOURS])
    file = write(tmp_path / "a.mkv", video, codec="libx264", pixels=pixels, prepare=prepare, matrix=matrix)
    mean = read_video(file, size=(8, 8)).mean((2, 3))
    torch.testing.assert_close(mean, torch.tensor(COLOURS) / 255, atol=0.012, rtol=0)


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_high_dynamic_range_is_refused(tmp_path, transfer, name):
    def prepare(stream):
        stream.codec_context.color_trc = transfer

    file = write(tmp_path / "a.mkv", squares(), codec="libx264", pixels="yuv420p10le", prepare=prepare)
    with pytest.raises(UserError, match=rf"high dynamic range \({name}\)"):
        read_video(file, size=SIZE)


def test_half_pictures_are_made_whole(tmp_path):
    def prepare(stream):
        stream.codec_context.flags |= (1 << 18) | (1 << 29)  # interlaced coding and motion search

    video = np.zeros((6, 32, 64, 3), dtype=np.uint8)
    for number in range(6):
        video[number, 0::2, 6 * number : 6 * number + 16] = 255
        video[number, 1::2, 6 * number + 3 : 6 * number + 19] = 255  # half a frame later
    options = {"x264-params": "tff=1", "crf": "1"}
    file = write(tmp_path / "a.mkv", video, codec="libx264", pixels="yuv420p", prepare=prepare, options=options)
    film = read_film(file, size=(32, 64))
    assert len(film.frames) == 6
    assert "interlaced" in film.remark
    combs = (film.frames[3, 0, 8:24:2] - film.frames[3, 0, 9:25:2]).abs().mean()
    assert combs < 0.02 < as_tensor(video)[3, 0, 8:24:2].sub(as_tensor(video)[3, 0, 9:25:2]).abs().mean()


GAPS = [0, 1, 2, 5, 6, 9, 10, 11, 15, 16]


@pytest.mark.parametrize(("name", "start"), [("a.avi", 0), ("a.mkv", 0), ("a.mkv", 7), ("a.mp4", 0), ("a.mp4", 7)])
def test_dropped_frames_are_read_over_and_said(tmp_path, name, start):
    video = squares(frames=10, width=64)
    codec = "ffv1" if name == "a.avi" else "libx264rgb"
    pixels = "bgr0" if name == "a.avi" else "rgb24"
    file = write(tmp_path / name, video, codec=codec, pixels=pixels, times=[start + time for time in GAPS])
    film = read_film(file, size=(32, 64))
    assert torch.equal(film.frames, as_tensor(video))
    assert "0.1 to 0.4 s apart" in film.remark
    # Evenly spaced in time: 0, 4, 8, 12 and 16 tenths of a second.
    chosen = read_film(file, size=(32, 64), frames=5)
    assert torch.equal(chosen.frames, as_tensor(video[[0, 3, 5, 7, 9]]))
    assert not read_film(write(tmp_path / "even.mkv", video), size=(32, 64)).remark


def test_what_an_edit_list_cuts_off_is_not_shown(tmp_path):
    video = squares(frames=8)
    file = write(tmp_path / "a.mp4", video, times=list(range(-3, 5)))
    assert torch.equal(read_video(file, size=SIZE), as_tensor(video[3:]))


def test_an_animation_gives_frames_evenly_spaced_in_time(tmp_path):
    frames = [Image.fromarray(frame) for frame in squares(frames=6)]
    for name in ("a.gif", "a.webp"):
        frames[0].save(
            tmp_path / name, save_all=True, append_images=frames[1:], duration=[100, 100, 100, 700, 100, 100]
        )
        chosen = read_film(tmp_path / name, size=SIZE, frames=3)
        every = read_film(tmp_path / name, size=SIZE)
        assert torch.equal(chosen.frames, every.frames[[0, 3, 5]])
        assert "0.1 to 0.7 s apart" in every.remark


def test_left_out_repeats_are_said(tmp_path):
    file = write(tmp_path / "a.mkv", squares()[[0, 1, 1, 2, 3, 3]])
    assert "2 of 6 frames repeat" in read_film(file, size=SIZE).remark


@pytest.mark.parametrize("name", ["a.avi", "a.mkv", "a.webm"])
@pytest.mark.parametrize("share", [0.5, 0.98])
def test_a_container_that_is_cut_short_is_refused(tmp_path, name, share):
    codec = {"a.avi": "mpeg4", "a.mkv": "ffv1", "a.webm": "libvpx-vp9"}[name]
    video = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    options = {"cpu-used": "8", "deadline": "realtime"} if codec == "libvpx-vp9" else {}
    file = write(tmp_path / name, video, codec=codec, pixels="yuv420p", options=options)
    assert len(read_video(file, size=SIZE)) == 12
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(UserError, match="damaged or cut short"):
        read_video(file, size=SIZE)


def test_what_was_written_to_a_pipe_names_no_end_and_is_read(tmp_path):
    class Pipe:
        def __init__(self):
            self.content = b""

        def write(self, data):
            self.content += bytes(data)
            return len(data)

    pipe, video = Pipe(), squares()
    with av.open(pipe, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "bgr0"
        for picture in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    (tmp_path / "a.mkv").write_bytes(pipe.content)
    assert torch.equal(read_video(tmp_path / "a.mkv", size=SIZE), as_tensor(video))


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.avi", "a.avif", "a.gif"])
def test_no_damage_to_a_film_ends_in_a_traceback(tmp_path, clear, name):
    file = tmp_path / name
    if name in ("a.avif", "a.gif"):
        first, *others = [Image.fromarray(frame) for frame in clear[0]]
        first.save(file, save_all=True, append_images=others)
    else:
        kinds = {"a.mkv": ("ffv1", "bgra"), "a.webm": ("libvpx-vp9", "yuva420p"), "a.avi": ("mpeg4", "yuv420p")}
        codec, pixels = kinds[name]
        write(file, clear[0], codec=codec, pixels=pixels)
    whole, draw = file.read_bytes(), np.random.default_rng(0)
    for _ in range(30):
        broken = bytearray(whole)
        for place in draw.integers(0, len(broken), 3):
            broken[place] = draw.integers(256)
        file.write_bytes(bytes(broken))
        try:
            read_video(file, size=(8, 8))
        except UserError as error:
            assert "\n" not in str(error)


def test_pictures_of_no_known_kind_are_refused(tmp_path):
    content = write(tmp_path / "a.mkv", squares(), codec="ffv1", pixels="bgr0").read_bytes()
    assert b"V_FFV1" in content
    (tmp_path / "a.mkv").write_bytes(content.replace(b"V_FFV1", b"V_NONE"))
    with pytest.raises(UserError, match="format that is not known"):
        read_video(tmp_path / "a.mkv", size=SIZE)


@pytest.mark.parametrize("times", [None, (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20)])
def test_frames_that_a_decoder_holds_back_keep_their_times(tmp_path, times):
    """Most files of cameras have frames that depend on later ones, so that the last come out only at the end."""
    video = squares(frames=12, width=64)
    options = {"crf": "1", "bf": "3", "b-adapt": "0"}
    file = write(tmp_path / "a.mp4", video, codec="libx264", pixels="yuv444p", times=times, options=options)
    with av.open(str(file)) as container:
        assert any(packet.pts != packet.dts for packet in container.demux(video=0))
    chosen = (0, 7, 10, 11) if times else (0, 4, 7, 11)
    read = read_film(file, size=(32, 64), frames=4).frames
    assert (read - as_tensor(video[list(chosen)])).abs().amax() < 0.1


def test_odd_sizes_lose_no_line(tmp_path):
    video = np.full((4, 33, 35, 3), 60, dtype=np.uint8)
    video[:, -1], video[:, :, -1] = 250, 250
    video[:, 16, 16] += np.arange(4, dtype=np.uint8)[:, None] * 40
    read = read_video(write(tmp_path / "a.mkv", video, codec="ffv1", pixels="yuv444p"), size=(33, 35))
    assert (read[:, :, -1].min(), read[:, :, :, -1].min()) == pytest.approx((250 / 255, 250 / 255), abs=0.01)
