"""The segments of a JPEG (ITU-T T.81, Annex B), and what is damaged among them without being part of the picture."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.images.errors import ImageError

# Inside image data, 0xFF is followed by 0 (it is a byte of data), 0xFF (it fills up) or D0 to D7 (a restart)
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
EOI, SOS, DHT, APP2 = 0xD9, 0xDA, 0xC4, 0xE2
BARE = (EOI, 0xD8, 0x01)  # markers that stand alone, without a segment
BASELINE, PROGRESSIVE = (0xC0, 0xC1), (0xC2, 0xCA)  # Huffman sequential; Huffman and arithmetic progressive
FRAMES = {*range(0xC0, 0xD0)} - {DHT, 0xC8, 0xCC}  # markers of frame headers (SOF)
SIGNATURE = 2  # bytes
ICC = b"ICC_PROFILE\0"  # a part of a color profile; the part's number and the number of parts follow
ADOBE = b"Adobe"  # begins the segment that says how colors are stored


class Segment(NamedTuple):
    """Where a segment lies in its file."""

    start: int  # its marker
    kind: int
    begin: int  # its body
    end: int


def segments(content: bytes, at: int = SIGNATURE) -> Iterator[Segment]:
    """Yield each segment, up to the end of the image."""
    while marker := MARKER.search(content, at):
        kind, begin = content[marker.end() - 1], marker.end()
        at = begin if kind in BARE else begin + int.from_bytes(content[begin : begin + 2], "big")
        yield Segment(marker.start(), kind, min(begin + 2, at), at)
        if kind == EOI:
            return


def damaged_ranges(content: bytes) -> list[tuple[int, int]]:
    """Where bytes before the first scan are damaged, but are no part of the picture: their beginnings and ends.

    They are stray bytes between segments, and the parts of a color profile that is not complete. Raises ImageError
    where stray bytes may be what is left of a segment that the picture needs.
    """
    found, profile, tables = [], [], set[int]()
    stray, end, frame = b"", SIGNATURE, 0
    for segment in segments(content):
        between = content[end : segment.start]
        if between.strip(b"\xff"):  # 0xFF fills up
            stray += between
            found.append((end, segment.start))
        end = segment.end
        body = content[segment.begin : end]
        if segment.kind == APP2 and body.startswith(ICC):
            profile.append(segment)
        elif segment.kind == DHT:
            tables |= {number for number, _ in huffman_tables(body)}
        elif segment.kind in FRAMES:
            frame = segment.kind
        elif segment.kind == SOS:
            if ADOBE in stray or (stray and not needed_tables(body, frame) <= tables):
                raise ImageError("corrupt", f"{len(stray)} stray bytes in its header, some of which it may need")
            break
    if profile and not is_complete([content[part.begin + len(ICC) : part.end] for part in profile]):
        found += [(part.start, part.end) for part in profile]
    return sorted(found)


def without(content: bytes, ranges: list[tuple[int, int]]) -> bytes:
    """The content without some ranges, which are in order."""
    ends = [*(begin for begin, _ in ranges), len(content)]
    begins = [0, *(end for _, end in ranges)]
    return b"".join(content[begin:end] for begin, end in zip(begins, ends, strict=True))


def is_complete(parts: list[bytes]) -> bool:
    """Whether parts of a color profile, each with its number and their count before it, are all there, once each."""
    numbers = sorted((part[:1], part[1:2]) for part in parts if len(part) > 2)
    return numbers == [(bytes([number]), bytes([len(parts) & 255])) for number in range(1, len(parts) + 1)]


def huffman_tables(body: bytes) -> Iterator[tuple[int, int]]:
    """For each table of a DHT segment, its class and number in one byte, and the symbol whose code is all zeros."""
    at = 0
    while at + 17 < len(body):
        yield body[at], body[at + 17]
        at += 17 + sum(body[at + 1 : at + 17])


def needed_tables(scan: bytes, frame: int) -> set[int]:
    """The Huffman tables that a scan needs, numbered as in DHT segments, from the scan's header."""
    count = scan[0] if scan else 0
    chosen = scan[2 : 2 + 2 * count : 2]
    dc, ac = {byte >> 4 for byte in chosen}, {0x10 | byte & 15 for byte in chosen}
    if frame in PROGRESSIVE:  # the first scan has the DC coefficients
        return dc
    return dc | ac if frame in BASELINE else set()
