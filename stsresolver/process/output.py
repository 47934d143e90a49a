"""Output of both programs for a person, and their exit status where it cannot be written.

Standard output has what was asked for: without it the program has failed. A reader that closes the
pipe before the end, as `head` does, needs no message. Standard error has what goes wrong; where
nobody can read it, the exit status still tells.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import TextIO

# What a shell gives for a program that SIGPIPE ends, as it does most others (Python ignores it).
CLOSED = 128 + signal.SIGPIPE


def say(prog: str, text: str) -> None:
    """Print lines on standard output, at once.

    Where that is not possible, end the program `prog`: with the status `CLOSED` if the reader has
    gone, else with a sentence on standard error and EX_IOERR.
    """
    try:
        if sys.stdout is None:
            # Closed before the start. print() would pass over it.
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        print(text, flush=True)
    except OSError as error:
        _abandon(sys.stdout)
        if isinstance(error, BrokenPipeError):
            sys.exit(CLOSED)
        complain(f"{prog}: standard output cannot be written: {error.strerror}")
        sys.exit(os.EX_IOERR)


def complain(text: str) -> None:
    """Print lines on standard error. Where that is not possible, they are lost."""
    if sys.stderr is None:
        return
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _abandon(sys.stderr)


def _abandon(stream: TextIO | None) -> None:
    """Let what a stream still holds go nowhere: else the interpreter fails once more at the end."""
    if stream is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
