"""Whether a video file ends before the end that it names itself, for the kinds of files that FFmpeg reads silently."""

import os
from pathlib import Path
from typing import BinaryIO

EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # Matroska and WebM
RIFF = b"RIFF"  # AVI


def ends_early(file: Path) -> bool:
    """Whether an AVI, Matroska or WebM file is shorter than its header says; any other file is not."""
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
