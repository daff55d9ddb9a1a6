"""Video files that FFmpeg reads, every frame as a player shows it.

The container's turn, mirror and pixel shape are applied, half pictures (interlaced video) are made whole, and
transparency shows white. Colours follow the matrix and range that the file names; where it names no matrix, that of
BT.709 is taken from high definition on and that of BT.601 below, as players do. High dynamic range is refused, since
it needs a choice of what to keep.
"""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
import torch
from PIL import Image

from latent_geodesics.core.errors import UserError
from latent_geodesics.data.films import Film
from latent_geodesics.data.images import as_shown, fitted

HIGH_DYNAMIC_RANGE = {16: "PQ", 18: "HLG"}  # by the number of the transfer characteristic in H.273
MATRIX_UNKNOWN = 2
HIGH_DEFINITION = (1280, 577)
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # Matroska and WebM
RIFF = b"RIFF"  # AVI
HALF_PICTURES = "interlaced: its half pictures are made whole frames (yadif)"


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """How the frames of a stream are to be shown: a turn of each, the shape of its pixels, and when."""

    sizes: tuple[tuple[int, int], ...]
    turns: tuple[tuple[int, ...], ...]
    times: tuple[float, ...]
    interlaced: bool
    pixel_aspect: float


def open_stream(file: Path, size: tuple[int, int]) -> Film:
    """The film of a file's video stream.

    It is decoded twice: the first pass checks every frame, the second keeps only those that are wanted.

    Raises:
        UserError: when the file is damaged, cut short, without pictures, of high dynamic range, or turned by other
            than right angles.
    """
    with _playable(file):
        layout = _survey(file)

    def read(chosen: Sequence[int]) -> torch.Tensor:
        wanted = set(chosen)
        kept = {}
        with _playable(file):
            for index, frame in enumerate(_decoded(file, whole=layout.interlaced)):
                if index in wanted:
                    turn = layout.turns[index]
                    picture = as_shown(Image.fromarray(_turned(_pixels(frame), turn)), file)
                    aspect = 1 / layout.pixel_aspect if _swaps(turn) else layout.pixel_aspect
                    kept[index] = fitted(picture, size, pixel_aspect=aspect)
        return torch.stack([kept[index] for index in chosen])

    remarks = (HALF_PICTURES,) if layout.interlaced else ()
    return Film(path=file, sizes=layout.sizes, times=layout.times, read=read, remarks=remarks)


def _survey(file: Path) -> _Layout:
    stored, turns, times, interlaced = [], [], [], False
    for frame in _decoded(file):
        if frame.color_trc in HIGH_DYNAMIC_RANGE:
            raise UserError(
                f"The video '{file}' is of high dynamic range ({HIGH_DYNAMIC_RANGE[frame.color_trc]}): convert it to "
                "standard range (SDR) first."
            )
        stored.append((frame.width, frame.height))
        turns.append(_turn(frame, file))
        times.append(frame.time)
        interlaced = interlaced or frame.interlaced_frame
    with av.open(str(file)) as container:
        aspect = float(_stream(container).sample_aspect_ratio or 1) if stored else 1.0
    if None in times or (np.diff(times) <= 0).any():
        times = []
    sizes = [(max(round(width * aspect), 1), height) for width, height in stored]
    shown = [
        (height, width) if _swaps(turn) else (width, height) for (width, height), turn in zip(sizes, turns, strict=True)
    ]
    return _Layout(
        sizes=tuple(shown), turns=tuple(turns), times=tuple(times), interlaced=interlaced, pixel_aspect=aspect
    )  # fmt: skip


def _stream(container: Any) -> Any:
    """The stream that a player shows: not a cover picture, and the default one where there are several."""
    streams = [stream for stream in container.streams.video if not stream.disposition & stream.disposition.attached_pic]
    if not streams:
        raise EOFError("it holds no pictures that move")
    return next((stream for stream in streams if stream.disposition & stream.disposition.default), streams[0])


def _decoded(file: Path, *, whole: bool = False) -> Iterator[av.VideoFrame]:
    """Every frame; an error instead of what a decoder would make up.

    Args:
        file: The file.
        whole: Make whole frames of half pictures.
    """
    if ends_early(file):
        raise EOFError("it ends before its end")
    with av.open(str(file)) as container:
        stream = _stream(container)
        frames = _of_packets(container, stream)
        yield from _without_combs(frames, stream) if whole else frames


def _of_packets(container: Any, stream: Any) -> Iterator[av.VideoFrame]:
    decoder = stream.codec_context
    if decoder is None:
        raise EOFError("its pictures are in a format that is not known")
    if stream.metadata.get("alpha_mode") == "1" and decoder.name in ALPHA_DECODERS:
        decoder = av.CodecContext.create(ALPHA_DECODERS[decoder.name], "r")
    decoder.options = {"err_detect": "explode"}
    packets = 0
    for packet in container.demux(stream):
        if not packet.size and packet.pts is not None:  # stands for a frame that was dropped
            continue
        packets += packet.size > 0
        for frame in decoder.decode(packet if packet.size else None):
            if frame.is_corrupt:
                raise EOFError("a frame of it is damaged")
            frame.time_base = stream.time_base  # the decoder does not know it for the frames that it held back
            yield frame
    # The index of an AVI also counts the frames that its recorder dropped.
    if packets < stream.frames and container.format.name != "avi":
        raise EOFError(f"it ends after {packets} of {stream.frames} frames")


def _without_combs(frames: Iterator[av.VideoFrame], stream: Any) -> Iterator[av.VideoFrame]:
    graph = av.filter.Graph()
    source, sink = graph.add_buffer(template=stream), graph.add("buffersink")
    weave = graph.add("yadif", "mode=send_frame:deint=interlaced")
    source.link_to(weave)
    weave.link_to(sink)
    graph.configure()
    for frame in frames:
        graph.push(frame)
        yield from _pulled(graph)
    graph.push(None)
    yield from _pulled(graph)


def _pulled(graph: Any) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def _pixels(frame: av.VideoFrame) -> np.ndarray:
    """The frame as stored, [h w 3] or, where it has transparency, [h w 4]."""
    alpha = any(component.is_alpha for component in frame.format.components)
    high = frame.width >= HIGH_DEFINITION[0] or frame.height >= HIGH_DEFINITION[1]
    assumed = frame.colorspace == MATRIX_UNKNOWN and high and not frame.format.is_rgb
    pixels = frame.reformat(format="rgba" if alpha else "rgb24", src_colorspace="ITU709" if assumed else None)
    return pixels.to_ndarray()


def _turn(frame: av.VideoFrame, file: Path) -> tuple[int, ...]:
    """How the shown place (x, y) follows from the stored one (p, q): the signs in x = a p + c q, y = b p + d q."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = np.frombuffer(matrix, dtype=np.int32)[:9]
    signs = tuple(int(np.sign(entry)) for entry in (a, b, c, d))
    if not any(signs):
        return 1, 0, 0, 1
    if (signs[0] and signs[3] and not signs[1] and not signs[2]) or (
        signs[1] and signs[2] and not signs[0] and not signs[3]
    ):
        return signs
    angle = round(math.degrees(math.atan2(-b, a)))
    raise UserError(f"The video '{file}' is turned by {angle} degrees: turn it by a multiple of 90 first.")


def _swaps(turn: tuple[int, ...]) -> bool:
    """Whether it makes rows of columns."""
    return turn[0] == 0


def _turned(pixels: np.ndarray, turn: tuple[int, ...]) -> np.ndarray:
    a, b, c, d = turn
    if _swaps(turn):
        pixels = pixels.swapaxes(0, 1)
    if a < 0 or c < 0:
        pixels = pixels[:, ::-1]
    if b < 0 or d < 0:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


@contextmanager
def _playable(file: Path) -> Iterator[None]:
    """Turns what FFmpeg throws into what the user should read."""
    try:
        yield
    except UserError:
        raise
    except (av.error.FFmpegError, OSError, EOFError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"The video '{file}' cannot be read ({reason}): it may be damaged or cut short; save it again as MP4."
        ) from error


def ends_early(file: Path) -> bool:
    """Whether an AVI, Matroska or WebM file, which FFmpeg reads silently, is shorter than its header says."""
    length = file.stat().st_size
    with file.open("rb") as content:
        start = content.read(4)
        content.seek(0)
        if start == RIFF:
            return _riff_end(content, length) > length
        if start == EBML:
            return _segment_end(content) > length
    return False


def _riff_end(content: BinaryIO, length: int) -> int:
    """Where the last of the RIFF chunks ends that follow one another from the start."""
    end = 0
    while end + 8 <= length:
        content.seek(end)
        if content.read(4) != RIFF:
            break
        size = int.from_bytes(content.read(4), "little")
        if size == 0:  # was never filled in, as by a recorder that writes to a pipe
            break
        end += 8 + size + size % 2
    return end


def _segment_end(content: BinaryIO) -> int:
    """Where the segment ends, which holds everything but a short header; 0 where its length was never filled in."""
    content.seek(len(EBML), os.SEEK_CUR)
    header = _number(content)
    content.seek(header or 0, os.SEEK_CUR)
    if content.read(4) != SEGMENT:
        return 0
    size = _number(content)
    return content.tell() + size if size is not None else 0


def _number(content: BinaryIO) -> int | None:
    """A number of EBML, whose first byte's leading zeros tell its length; None for one that means "unknown"."""
    first = content.read(1)
    if not first or not first[0]:
        return None
    extra = 8 - first[0].bit_length()
    rest = content.read(extra)
    bits = 7 * (extra + 1)
    value = int.from_bytes(first + rest, "big") & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else value
