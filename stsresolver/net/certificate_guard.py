"""Keeps certificates from OpenSSL that would cost it much to read (`certificate_list`).

OpenSSL shows every message of a handshake to a callback before it reads it
(SSL_CTX_set_msg_callback(3)). Ours overwrites the lengths in a message that is refused, so OpenSSL
ends the handshake with an alert. Python's ssl has no such callback, so libssl is called through
ctypes. OpenSSL hands over each context that is made (CRYPTO_get_ex_new_index(3)), so nothing here
depends on how Python keeps one.

The guard is for the whole process, and so for one that we start ourselves.
"""

from __future__ import annotations

import _ssl
import ctypes
import threading

from .certificate_list import Refused, check

# openssl/crypto.h, openssl/ssl3.h
_EX_INDEX_SSL_CTX = 1
_HANDSHAKE = 22
# Bytes of a message's header, and of the lengths behind it. With all bits set they are too long.
_HEADER, _LENGTHS = 4, 4

_NewContext = ctypes.CFUNCTYPE(
    None,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_long,
    ctypes.c_void_p,
)
_Message = ctypes.CFUNCTYPE(
    None,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_void_p,
    ctypes.c_void_p,
)


class _Refusal(threading.local):
    """Why the last message of this thread was refused, "" if none was."""

    why = ""


_refusal = _Refusal()
# OpenSSL calls them as long as the process lives.
_callbacks: list[object] = []


def install() -> bool:
    """Guard all contexts that are made from now on; return whether that is possible here."""
    try:
        libssl = ctypes.CDLL(getattr(_ssl, "__file__", None))
        guard = _Message(_guard)
        set_callback = libssl.SSL_CTX_set_msg_callback
        set_callback.argtypes, set_callback.restype = (ctypes.c_void_p, _Message), None
        new = _NewContext(lambda context, *_: set_callback(context, guard))
        index = libssl.CRYPTO_get_ex_new_index
        index.argtypes = (
            ctypes.c_int,
            ctypes.c_long,
            ctypes.c_void_p,
            _NewContext,
            ctypes.c_void_p,
            ctypes.c_void_p,
        )
    except (AttributeError, MemoryError, OSError):
        # An OpenSSL that hides its functions, or a system that forbids callbacks to be made.
        return False
    _callbacks.extend((guard, new))
    return bool(index(_EX_INDEX_SSL_CTX, 0, None, new, None, None) >= 0)


def refusal() -> str:
    """Return why a message of this thread's last handshake was refused, and forget it."""
    why, _refusal.why = _refusal.why, ""
    return why


def _guard(
    ours: int, version: int, kind: int, data: int, size: int, _connection: int, _context: int
) -> None:
    """Take a message from OpenSSL. `ours`: whether we send it."""
    if ours or kind != _HANDSHAKE:
        return
    try:
        check(ctypes.string_at(data, size), version)
    except Refused as error:
        _refusal.why = str(error)
        ctypes.memset(data + _HEADER, 0xFF, min(_LENGTHS, size - _HEADER))
