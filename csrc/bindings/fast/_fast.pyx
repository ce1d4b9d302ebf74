# cython: language_level=3, binding=False, embedsignature=False, boundscheck=False
# cython: wraparound=False, initializedcheck=False, freethreading_compatible=False
# distutils: language = c++
"""The verbs of tidegate for Python: submit, run, resolve, and the Future.

One translation unit; each part has a file of its own. From the bottom up:

    schema.pxi    what a request looks like, and copying it into staging memory
    collate.pxi   ragged rows made equally long, and answers of one row per token
    outputs.pxi   what models answer with: arrays, and single rows of them
    batch.pxi     the Python side of a batch: outputs, errors, who awaits it where
    channels.pxi  event loops and the callback thread: one wake-up for all completions
    future.pxi    the handle of a request
    bulk.pxi      the handle of a request of many rows
    groups.pxi    which requests may share a batch, and what each takes up of it
    session.pxi   what a batcher, its executors and its batches share
    runner.pxi    taking a batch and running the model
    device.pxi    starting batches on a device, several before the first has ended
    rows.pxi      many requests at once, and one of them
    gateway.pxi   the base of Batcher: submit and call
"""
import collections
import contextvars
import os
import sys
import threading
import weakref

import numpy as np

from tidegate.errors import (
    ClosedError,
    DeadlineError,
    DeviceError,
    ForkedProcessError,
    InputError,
    ModelError,
    OutputError,
    QueueFullError,
    TidegateError,
    said,
)
from tidegate.ragged import PerToken
from tidegate.specs import infer_spec, leaves

cimport cython
cimport numpy as cnp
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject, PyTypeObject
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from libcpp.vector cimport vector

from waist cimport *

cnp.import_array()

cdef extern from "sched.h" nogil:
    int sched_yield()

cdef extern from "Python.h":
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    ctypedef PySendResult (*sendfunc)(PyObject*, PyObject*, PyObject**) except PYGEN_ERROR
    ctypedef struct PyAsyncMethods:
        sendfunc am_send
    ctypedef struct RawType "PyTypeObject":
        PyAsyncMethods* tp_as_async
    ctypedef PyObject* (*PyCFunction)(PyObject*, PyObject*)
    int PyCFunction_CheckExact(object)
    PyCFunction PyCFunction_GetFunction(object)
    PyObject* PyCFunction_GetSelf(object)
    int PyContext_Enter(object) except -1
    int PyContext_Exit(object) except -1
    int PyErr_CheckSignals() except -1
    PyObject* PyThreadState_GetDict()
    unsigned long PyThread_get_thread_ident()
    int Py_AddPendingCall(int (*)(void*) noexcept, void*) nogil
    Py_ssize_t Py_REFCNT(PyObject*)
    object PyObject_CallOneArg(object, object)
    int PyGC_Disable()
    int PyGC_Enable()

cdef extern from "numpy/arrayobject.h":
    object PyArray_NewFromDescr(PyTypeObject*, cnp.dtype, int, const cnp.npy_intp*,
                                const cnp.npy_intp*, void*, int, PyObject*)
    int PyArray_SetBaseObject(cnp.ndarray, PyObject*) except -1
    object PyArray_ToScalar(void*, cnp.ndarray)
    PyTypeObject PyArray_Type
    int NPY_ARRAY_WRITEABLE
    int NPY_ARRAY_ALIGNED
    int PyArray_IS_C_CONTIGUOUS(cnp.ndarray)
    int PyArray_ISALIGNED(cnp.ndarray)
    int PyDataType_REFCHK(cnp.dtype)

# NumPy's flag of arrays that warn when they are written to; its headers keep it to themselves.
cdef enum:
    WARNS_ON_WRITE = 1 << 31
# Rows larger than this are copied with the GIL released.
cdef enum:
    LARGE_ROW = 65536
# Outputs of a batch up to this many bytes are handed out as views, rows of larger ones are copied:
# a kept view keeps the whole batch's outputs alive, so this bounds what a kept row can waste. A
# view takes half the time of a copy.
cdef enum:
    SMALL_OUTPUTS = 65536
cdef enum:
    SMALL_ANSWER = 4096
# How long a fork waits between two looks at those who yield the GIL.
cdef enum:
    YIELDING_MICROSECONDS = 50

cdef extern from "unistd.h" nogil:
    int usleep(unsigned int)

cdef extern from *:
    """
    // Before 3.12 a dictionary's version changes with each change of any of its entries, so the
    // version of a thread's state dictionary stands for the loop that runs in the thread.
    #if PY_VERSION_HEX < 0x030C0000
    static inline uint64_t tidegate_dict_version(PyObject* dict) {
        return reinterpret_cast<PyDictObject*>(dict)->ma_version_tag;
    }
    #else
    static inline uint64_t tidegate_dict_version(PyObject*) { return 0; }
    #endif
    """
    uint64_t tidegate_dict_version(PyObject*) noexcept


cdef object _log_failed_callback(object future):
    """Logs the exception in flight; the module is imported when it is first needed."""
    import logging
    logging.getLogger("tidegate").exception("a done callback of %r raised", future)


include "schema.pxi"
include "collate.pxi"
include "outputs.pxi"
include "batch.pxi"
include "channels.pxi"
include "future.pxi"
include "bulk.pxi"
include "groups.pxi"
include "session.pxi"
include "runner.pxi"
include "device.pxi"
include "rows.pxi"
include "gateway.pxi"

# Fill the am_send slots; Cython has no syntax for them.
(<RawType*>Future).tp_as_async.am_send = _future_send
(<RawType*>BulkFuture).tp_as_async.am_send = _future_send
