"""One client's side of the socketmap protocol, without its socket.

It collects the bytes that come, and hands each whole request to a function. This function returns
the reply, or says that the reply comes later. Replies are kept until they are sent. Pure: no I/O,
no lock, no clock.

A client has at most one request outstanding. Its further requests wait until that one is answered,
and while `UNSENT_LIMIT` bytes of replies are unsent. So pipelined requests are answered in order.
"""

from __future__ import annotations

from collections.abc import Callable

from .netstring import NetstringError, cut

# Bytes of replies that may wait for a client before its further requests do.
UNSENT_LIMIT = 131_072

# Takes a request's bytes on the wire and its text. Returns the reply, or None if it comes later.
Ask = Callable[[bytes, bytes], bytes | None]


class Conversation:
    """What a client has sent, and what it is owed.

    `received`: bytes that are no whole request yet, or that wait for an earlier one.
    `unsent`: replies that the client has not taken yet.
    `waiting`: whether a request is outstanding.
    `ending`: whether the conversation is over once nothing is owed.
    """

    __slots__ = ("ending", "received", "unsent", "waiting")

    def __init__(self) -> None:
        self.received = b""
        self.unsent = b""
        self.waiting = False
        self.ending = False

    @property
    def idle(self) -> bool:
        """Whether nothing is owed to the client."""
        return not self.waiting and not self.unsent

    def end(self) -> None:
        """Take no more requests."""
        self.ending = True
        self.received = b""

    def answer(self, ask: Ask) -> bool:
        """Have `ask` reply to the whole requests, up to the first whose reply comes later.

        Return whether further requests wait for unsent replies. Raise `NetstringError` for bytes
        that are no netstring. Replies to the requests before them are kept, and the conversation
        ends.
        """
        received, start = self.received, 0
        replies: list[bytes] = []
        size = 0
        try:
            while not self.waiting and size < UNSENT_LIMIT:
                found = cut(received, start)
                if found is None:
                    break
                text, end = found
                wire, start = received[start:end], end
                reply = ask(wire, text)
                if reply is None:
                    self.waiting = True
                else:
                    replies.append(reply)
                    size += len(reply)
        except NetstringError:
            self.ending = True
            start = len(received)
            raise
        finally:
            self.received = received[start:]
            self.unsent += b"".join(replies)
        return size >= UNSENT_LIMIT

    def reply(self, data: bytes) -> None:
        """Take the reply to the outstanding request."""
        self.waiting = False
        self.unsent += data

    def sent(self, size: int) -> None:
        """Note that the client took the first `size` bytes of what is unsent."""
        self.unsent = self.unsent[size:]
