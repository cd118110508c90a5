"""The message `tf.train.Example`, read without TensorFlow.

An Example has one map, from names to lists of bytes, of floats or of int64. On the wire every message is a row of
fields, each a tag (its number and its kind), then a value; a map is a repeated message of a key and a value.
"""

from collections.abc import Iterator

_VARINT, _CHUNK = 0, 2
_FIXED_BYTES = {1: 8, 5: 4}
_BYTES_LIST, _INT64_LIST = 1, 3

Features = dict[str, list[bytes] | list[int]]


def read_example(payload: bytes) -> Features:
    """The lists of bytes and of int64 of a serialized Example, by name; lists of floats are left out.

    Raises:
        ValueError: the payload is no Example.
    """
    found: Features = {}
    for features in _chunks(memoryview(payload), 1):
        for entry in _chunks(features, 1):
            name = str(b"".join(_chunks(entry, 1)), "utf-8")
            for feature in _chunks(entry, 2):
                for values in _chunks(feature, _BYTES_LIST):
                    found[name] = [bytes(value) for value in _chunks(values, 1)]
                for values in _chunks(feature, _INT64_LIST):
                    found[name] = list(_integers(values))
    return found


def _integers(message: memoryview) -> Iterator[int]:
    """The values of an Int64List, which may be packed into one field or have a field each."""
    for number, value in _fields(message):
        if number != 1:
            continue
        if isinstance(value, int):
            yield _signed(value)
            continue
        at = 0
        while at < len(value):
            packed, at = _varint(value, at)
            yield _signed(packed)


def _chunks(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """The fields of one number that hold bytes or a message."""
    for number, value in _fields(message):
        if number == wanted and not isinstance(value, int):
            yield value


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """The numbers and the values of all fields."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if kind == _CHUNK:
            length, at = _varint(message, at)
        elif kind in _FIXED_BYTES:
            length = _FIXED_BYTES[kind]
        else:
            raise ValueError(f"a field has the unknown kind {kind}")
        if at + length > len(message):
            raise ValueError("it ends within a field")
        yield tag >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number at byte `at`, seven bits a byte with the lowest first, and the byte after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("it ends within a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number is longer than ten bytes")


def _signed(value: int) -> int:
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value
