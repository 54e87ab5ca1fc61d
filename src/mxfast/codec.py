"""The codec's public face: numpy arrays to MXAccess wire bytes and back.

Needs numpy only. The work is done by the compiled :mod:`mxfast._codec`.
"""

from mxfast._codec import (
    DecodeError,
    EncodeError,
    EventColumns,
    PreparedWriteBulk,
    ValueColumns,
    ValueKind,
    WriteReply,
    WriteRequest,
    all_finite,
    decode_events,
    decode_value,
    decode_values,
    decode_write_reply,
    decode_write_request,
    encode_events,
    encode_value,
    encode_values,
    encode_write_bulk,
    encode_write_reply,
    first_non_finite,
)

__all__ = [
    "DecodeError",
    "EncodeError",
    "EventColumns",
    "PreparedWriteBulk",
    "ValueColumns",
    "ValueKind",
    "WriteReply",
    "WriteRequest",
    "all_finite",
    "decode_events",
    "decode_value",
    "decode_values",
    "decode_write_reply",
    "decode_write_request",
    "encode_events",
    "encode_value",
    "encode_values",
    "encode_write_bulk",
    "encode_write_reply",
    "first_non_finite",
]
