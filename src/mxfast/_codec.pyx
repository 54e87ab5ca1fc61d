# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: freethreading_compatible=True, embedsignature=False
"""The compiled codec: numpy arrays <-> MXAccess wire bytes. Imports numpy only.

Memory is taken and given through the buffer protocol, so nothing of numpy's C
interface is built in. Python objects are resolved first; then one ``noexcept
nogil`` walk reads or writes. There is no mutable state in the module.
"""

import datetime
import enum
import functools
import math
import operator
from collections.abc import Sequence

import numpy as np

cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE,
    PyBUF_STRIDED_RO,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_CheckBuffer,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.stdint cimport INT64_MAX, INT64_MIN, SIZE_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from mxfast._contract cimport *
from mxfast._wire cimport *

include "_contract_names.pxi"
include "_common.pxi"
include "_finite.pxi"
include "_lists.pxi"
include "_sources.pxi"
include "_rows.pxi"
include "_encode.pxi"
include "_prepared.pxi"
include "_known.pxi"
include "_values.pxi"
include "_columns.pxi"
include "_layout.pxi"
include "_event_layout.pxi"
include "_decode.pxi"
include "_buffered.pxi"
include "_results.pxi"
include "_command.pxi"
include "_gateway.pxi"
