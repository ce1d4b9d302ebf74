"""What a message holds, counted before protobuf makes objects of it.

Two bytes are enough for an empty part of a message, and protobuf needs some 90 for each of them. A
message within the limit of its size would then take many times as much memory, so large ones are
looked through first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tidegate.serving.errors import TooLargeError

__all__ = ["MODEL_INFER", "PREDICT", "Shape", "check_structure"]

# Field numbers of parts to look into, to what they hold, or to None for a field that must be short.
Shape = Mapping[int, "Shape | None"]

PREDICT: Shape = {4: None}  # the shape
MODEL_INFER: Shape = {5: {3: None}}  # the inputs, and their shapes

# Smaller messages cannot do harm.
_SMALL = 2**16
_MOST_FIELDS = 1024
_MOST_SHORT = 1024  # bytes of a shape
_LENGTH_DELIMITED = 2
_FIXED = {1: 8, 5: 4}  # bytes of a value by its wire type


def check_structure(message: bytes, shape: Shape) -> None:
    """Raises TooLargeError if a large message has very many parts; not if it is malformed."""
    if len(message) > _SMALL:
        _check(memoryview(message), shape)


def _check(message: memoryview, shape: Shape) -> None:
    for count, (number, part) in enumerate(_fields(message)):
        if count == _MOST_FIELDS:
            raise _too_many(f"at most {_MOST_FIELDS} parts", "more")
        if number not in shape:
            continue
        inner = shape[number]
        if inner is not None:
            _check(part, inner)
        elif len(part) > _MOST_SHORT:
            raise _too_many(f"shapes of at most {_MOST_SHORT} bytes", f"one of {len(part)}")


def _too_many(expected: str, given: str) -> TooLargeError:
    return TooLargeError(
        f"a message of more than {_SMALL} bytes has {expected}, got {given}",
        expected=expected,
        given=given,
    )


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The numbers and values of a message's fields; ends early where it is malformed."""
    start, end = 0, len(message)
    try:
        while start < end:
            tag, start = _varint(message, start)
            wire = tag & 7
            if wire == 0:
                after = _varint(message, start)[1]
            elif wire == _LENGTH_DELIMITED:
                length, start = _varint(message, start)
                after = start + length
            elif wire in _FIXED:
                after = start + _FIXED[wire]
            else:  # a group, which neither service has: the parser skips what is in it
                after = start
            yield tag >> 3, message[start:after]
            start = after
    except IndexError:
        return


def _varint(message: memoryview, start: int) -> tuple[int, int]:
    """A number, and where it ends; raises IndexError beyond the end."""
    value = shift = 0
    while True:
        byte = message[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
        shift += 7
        if shift > 63:
            raise IndexError
