"""Types of the compiled codec. Its public face, with the prose, is :mod:`mxfast.codec`."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

# numpy's own type has no datetimes, which are taken in lists.
Column: TypeAlias = ArrayLike | Sequence[datetime]

class EncodeError(ValueError):
    index: int
    value: object
    def __init__(self, message: str, index: int, value: object) -> None: ...

class DecodeError(ValueError):
    offset: int
    field: str
    def __init__(self, message: str, offset: int, field: str) -> None: ...

class ValueKind(IntEnum):
    NONE = 0
    BOOL = 1
    INT32 = 2
    INT64 = 3
    FLOAT = 4
    DOUBLE = 5
    STRING = 6
    TIMESTAMP = 7
    ARRAY = 8
    RAW = 9
    SPARSE_ARRAY = 10

def exact_array(data: Column | datetime, name: str) -> NDArray[Any]: ...
def in_dtype(array: NDArray[Any], dtype: np.dtype[Any], name: str) -> NDArray[Any]: ...
def all_finite(array: ArrayLike) -> bool: ...
def first_non_finite(array: ArrayLike) -> int: ...
def encode_value(array: Column | datetime | None) -> bytes: ...
def decode_value(data: bytes) -> Any: ...
def encode_values(array: Column) -> list[bytes]: ...
def decode_values(messages: Sequence[bytes]) -> NDArray[Any]: ...
def encode_write_bulk(
    session_id: str,
    server_handle: int,
    item_handles: ArrayLike,
    values: Column,
    *,
    timestamps: Column | None = None,
    user_id: int = 0,
    secured_by: tuple[int, int] | None = None,
    correlation_id: str = "",
) -> bytes: ...

class PreparedWriteBulk:
    def __init__(
        self,
        session_id: str,
        server_handle: int,
        item_handles: ArrayLike,
        dtype: DTypeLike = ...,
        *,
        user_id: int = 0,
        secured_by: tuple[int, int] | None = None,
        correlation_id: str = "",
    ) -> None: ...
    def __len__(self) -> int: ...
    def encode(self, values: ArrayLike, correlation_id: str | None = None) -> bytes: ...

def decode_write_reply(data: bytes) -> WriteReply: ...
def decode_subscribe_reply(data: bytes) -> SubscribeReply: ...
def decode_read_reply(data: bytes) -> ReadReply: ...
def encode_command(
    session_id: str, correlation_id: str, kind: int, field: int, payload: bytes
) -> bytes: ...
def encode_fields(numbers: dict[str, int], fields: dict[str, Any]) -> bytes | None: ...
def encode_write(
    session_id: str,
    correlation_id: str,
    server_handle: int,
    item_handle: int,
    value: object,
    user_id: int,
) -> bytes | None: ...
def is_fine_reply(data: bytes) -> bool: ...
def decode_handle(data: bytes, payload: int, field: int) -> int: ...
def decode_events(messages: Sequence[bytes]) -> EventColumns: ...

# The gateway's directions, for the simulated gateway.
def decode_write_request(data: bytes) -> WriteRequest | None: ...
def encode_write_reply(
    session_id: str,
    correlation_id: str,
    command_kind: int,
    server_handle: int,
    item_handles: NDArray[np.int32],
    *,
    rows: Mapping[int, bytes] | None = None,
) -> bytes: ...
def encode_events(
    session_id: str,
    family: int,
    server_handle: int,
    item_handles: NDArray[np.int32],
    *,
    first_sequence: int,
    gateway_timestamp: int,
    status: bytes = b"",
    kind: NDArray[np.uint8] | None = None,
    payload: NDArray[np.int64] | None = None,
    quality: NDArray[np.int32] | None = None,
    source_timestamp: NDArray[np.int64] | None = None,
    values: Mapping[int, bytes] | None = None,
) -> list[bytes]: ...

class ValueColumns:
    """Rows of MxValue: ``kind`` says the arm, ``payload`` holds 64 bits of it."""

    kind: NDArray[np.uint8]
    payload: NDArray[np.int64]
    def __len__(self) -> int: ...
    @property
    def value(self) -> NDArray[np.float64]: ...
    def values(self, kind: int) -> NDArray[Any]: ...
    def value_bytes(self, row: int) -> bytes: ...

class EventColumns(ValueColumns):
    messages: Sequence[bytes]
    message_index: NDArray[np.int64]
    family: NDArray[np.int32]
    server_handle: NDArray[np.int32]
    item_handle: NDArray[np.int32]
    worker_sequence: NDArray[np.uint64]
    quality: NDArray[np.int32]
    source_timestamp: NDArray[np.datetime64]
    gateway_timestamp: NDArray[np.datetime64]
    ok: NDArray[np.bool_]
    gaps: list[tuple[int, int, int]]
    def slice(self, rows: slice) -> EventColumns: ...

class WriteRequest(ValueColumns):
    session_id: str
    correlation_id: str
    command_kind: int
    server_handle: int
    item_handle: NDArray[np.int32]
    timestamp: NDArray[np.datetime64]
    user_id: NDArray[np.int32]
    verifier_user_id: NDArray[np.int32]

class CommandReply:
    session_id: str
    correlation_id: str
    command_kind: int
    status_code: int
    status_message: str
    hresult_of_call: int | None
    diagnostic_message: str
    has_results: bool

class WriteReply(CommandReply):
    item_handle: NDArray[np.int32]
    was_successful: NDArray[np.bool_]
    hresult: NDArray[np.int32]
    def __len__(self) -> int: ...
    def result_bytes(self, row: int) -> bytes: ...

class ItemReply(CommandReply):
    item_handle: NDArray[np.int32]
    was_successful: NDArray[np.bool_]
    def __len__(self) -> int: ...
    def result_bytes(self, row: int) -> bytes: ...
    def tag_addresses(self) -> list[str]: ...
    def error_message(self, row: int) -> str: ...

class SubscribeReply(ItemReply): ...

class ReadReply(ItemReply):
    was_cached: NDArray[np.bool_]
    quality: NDArray[np.int32]
    source_timestamp: NDArray[np.datetime64]
    ok: NDArray[np.bool_]
    cells: ValueColumns
