"""COCO's run lengths, one character at a time."""

import numpy as np


def runs(counts):
    """Read the runs of a compressed mask."""
    out, place = [], 0
    while place < len(counts):
        value, shift = 0, 0
        while True:
            code = ord(counts[place]) - 48
            place += 1
            value += (code % 32) * 32**shift
            shift += 1
            if code < 32:
                break
        if code % 32 >= 16:  # negative: two's complement
            value -= 32**shift
        out.append(value + (out[-2] if len(out) > 2 else 0))
    return out


def characters(given):
    """Encode runs as the counts of a compressed mask; the runs may be invalid."""
    text = ""
    for index, run in enumerate(given):
        value = run - (given[index - 2] if index > 2 else 0)
        while True:
            five, value = value % 32, value // 32
            more = value != (-1 if five >= 16 else 0)
            text += chr(48 + five + 32 * more)
            if not more:
                break
    return text


def decode(mask):
    """Decode a mask, filling it in column-major order."""
    height, width = mask["size"]
    out = np.zeros((height, width), dtype=bool)
    place = 0
    for index, run in enumerate(runs(mask["counts"])):
        for _ in range(run):
            out[place % height, place // height] = index % 2 == 1
            place += 1
    return out
