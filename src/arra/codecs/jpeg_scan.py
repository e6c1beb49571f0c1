"""Reading the entropy-coded part of a baseline JPEG strictly (ITU-T T.81, annexes B and F).

Image readers repair what they can and say nothing. Whether a file needs no repair is decided here:
every restart interval must hold one whole unit (MCU), no more and no less.
"""

from __future__ import annotations

import re

_ILLEGAL = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_RESTART = re.compile(rb"\xff[\xd0-\xd7]", re.DOTALL)
_END = b"\xff\xd9"
Codes = dict[str, int]
"""Huffman code, as a string of 0 and 1, to its symbol."""


def cleaned(scan: bytes) -> bytes:
    """A scan without what would be no part of one: what follows an end of image, markers that
    cannot stand here, and half a marker at the end."""
    scan = scan.partition(_END)[0]
    while _ILLEGAL.search(scan):
        scan = _ILLEGAL.sub(b"", scan)
    return scan.rstrip(b"\xff")


def huffman_tables(blob: bytes) -> dict[int, Codes]:
    """Table class and number (one byte: class in the upper half) to codes, of a file's segments."""
    found: dict[int, Codes] = {}
    for marker, body in segments(blob):
        while marker == 0xC4 and body:
            counts, first = body[1:17], 17
            table, code = {}, 0
            for length, count in enumerate(counts, start=1):
                for symbol in body[first : first + count]:
                    table[format(code, f"0{length}b")] = symbol
                    code += 1
                first += count
                code <<= 1
            found[body[0]], body = table, body[first:]
    return found


def segments(blob: bytes) -> list[tuple[int, bytes]]:
    """Marker and content of the segments before the scan; those without content are left out."""
    found, place = [], 0
    while place + 4 <= len(blob):
        marker = blob[place + 1]
        if marker in (0xD8, 0xD9):
            place += 2
            continue
        length = int.from_bytes(blob[place + 2 : place + 4], "big")
        found.append((marker, blob[place + 4 : place + 2 + length]))
        place += 2 + length
    return found


class ScanReader:
    """Says whether a scan of one MCU a restart interval is whole."""

    def __init__(self, header: bytes, tables: bytes, units: int):
        """`header` with frame and scan segments, `tables` with the Huffman tables; `units` MCUs."""
        known, parts = huffman_tables(tables), dict(segments(header))
        frame, scan = parts[0xC0], parts[0xDA]
        factors = {frame[6 + 3 * n]: frame[7 + 3 * n] for n in range(frame[5])}
        self.units, self.blocks = units, list[tuple[Codes, Codes]]()
        for n in range(scan[0]):
            component, chosen = scan[1 + 2 * n], scan[2 + 2 * n]
            # one component alone is not interleaved: a unit is a block, whatever its factors say
            count = (factors[component] >> 4) * (factors[component] & 15) if scan[0] > 1 else 1
            self.blocks += [(known[chosen >> 4], known[0x10 | (chosen & 15)])] * count

    def whole(self, scan: bytes) -> bool:
        """Whether the scan has as many intervals as units, marked in order, each of one unit."""
        marks = _RESTART.findall(scan)
        if [mark[1] for mark in marks] != [0xD0 + n % 8 for n in range(self.units - 1)]:
            return False
        return all(map(self.unit, _RESTART.split(scan)))

    def unit(self, interval: bytes) -> bool:
        """Whether the bytes of an interval are one MCU and less than a byte of filling."""
        plain = interval.replace(b"\xff\x00", b"\xff")
        if len(plain) != len(interval) - interval.count(b"\xff"):
            return False  # a byte FF that is not followed by 00
        bits = format(int.from_bytes(plain, "big"), f"0{8 * len(plain)}b") if plain else ""
        place = 0
        for dc, ac in self.blocks:
            stop = _block(bits, place, dc, ac)
            if stop is None:
                return False
            place = stop
        return len(bits) - place < 8


def _block(bits: str, place: int, dc: Codes, ac: Codes) -> int | None:
    """Where the block that begins at `place` ends, None if none does."""
    read = _symbol(bits, place, dc)
    if read is None:
        return None
    place, index = read[1] + read[0], 1
    while index < 64:
        read = _symbol(bits, place, ac)
        if read is None:
            return None
        run, size = divmod(read[0], 16)
        place = read[1] + size
        if size == 0 and run != 15:
            break
        index += run + 1
    return place if index <= 64 and place <= len(bits) else None


def _symbol(bits: str, place: int, table: Codes) -> tuple[int, int] | None:
    """The symbol at `place` and where its code ends."""
    for stop in range(place + 1, min(place + 16, len(bits)) + 1):
        if (symbol := table.get(bits[place:stop])) is not None:
            return symbol, stop
    return None
