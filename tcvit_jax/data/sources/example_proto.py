"""Parser of the protocol buffer message `tf.train.Example`, without TensorFlow.

An Example has one map from names to lists of bytes, floats or int64. On the wire, a message is a sequence of fields;
each is a tag (field number and wire type) followed by a value. A map is a repeated message of a key and a value.
"""

from collections.abc import Iterator

_VARINT, _LENGTH_DELIMITED = 0, 2
_FIXED_BYTES = {1: 8, 5: 4}
_BYTES_LIST, _INT64_LIST = 1, 3

Features = dict[str, list[bytes] | list[int]]


def read_example(payload: bytes) -> Features:
    """Return the bytes and int64 lists of a serialized Example by name. Float lists are skipped.

    Args:
        payload: The serialized message.

    Returns:
        The values of each feature.

    Raises:
        ValueError: The payload is not an Example.
    """
    result: Features = {}
    for features in _length_delimited(memoryview(payload), 1):
        for entry in _length_delimited(features, 1):
            name = str(b"".join(_length_delimited(entry, 1)), "utf-8")
            for feature in _length_delimited(entry, 2):
                for values in _length_delimited(feature, _BYTES_LIST):
                    result[name] = [bytes(value) for value in _length_delimited(values, 1)]
                for values in _length_delimited(feature, _INT64_LIST):
                    result[name] = list(_integers(values))
    return result


def _integers(message: memoryview) -> Iterator[int]:
    """Yield the values of an Int64List, packed into one field or one field each."""
    for number, value in _fields(message):
        if number != 1:
            continue
        if isinstance(value, int):
            yield _signed(value)
            continue
        position = 0
        while position < len(value):
            packed, position = _varint(value, position)
            yield _signed(packed)


def _length_delimited(message: memoryview, field_number: int) -> Iterator[memoryview]:
    """Yield the values of the fields `field_number` that hold bytes or a message."""
    for number, value in _fields(message):
        if number == field_number and not isinstance(value, int):
            yield value


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yield the number and the value of every field."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        wire_type = tag & 7
        if wire_type == _VARINT:
            value, position = _varint(message, position)
            yield tag >> 3, value
            continue
        if wire_type == _LENGTH_DELIMITED:
            length, position = _varint(message, position)
        elif wire_type in _FIXED_BYTES:
            length = _FIXED_BYTES[wire_type]
        else:
            raise ValueError(f"unknown wire type {wire_type}")
        if position + length > len(message):
            raise ValueError("truncated field")
        yield tag >> 3, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return the varint at byte `position`, seven bits per byte with the lowest first, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ValueError("truncated varint")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("varint longer than 10 bytes")


def _signed(value: int) -> int:
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value
