"""HTTPS servers that misbehave on purpose, on loopback: each byte and each pause is the test's.

    with PolicyHost(page(), authority.server("mta-sts.example.com")) as host:
        ...  # connect to 127.0.0.1, host.port
        assert host.heads[0].startswith(b"GET ")

A *reply* is a function from the request's head to the pieces of the answer, sent in turn: bytes,
a number of seconds to wait, an `Ending`. An answer that just ends is closed as TLS asks for it.

A `Listener` runs any *script*, a function of the connection and of the event that is set when
the test is over. Whatever a script does, it ends when its client hangs up, when the test is over
or when a time runs out that is longer than any time limit under test.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Iterator

POLICY = b"version: STSv1\nmode: enforce\nmx: mail.example.com\nmax_age: 604800\n"


class Ending(enum.Enum):
    """How a connection ends."""

    CUT = "FIN without close_notify"
    RESET = "RST"
    OPEN = "not before the client goes"


Piece = bytes | float | Ending
Reply = Callable[[bytes], Iterable[Piece]]
Script = Callable[[socket.socket, threading.Event], None]

# Seconds; the client is to be the one that gives up.
_PATIENCE = 20.0


class Listener:
    """Accept connections and run `script` on each, in a thread of its own.

    `connections` counts what was accepted.
    """

    def __init__(self, script: Script, address: str = "127.0.0.1", port: int = 0):
        self.connections = 0
        self._script = script
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._live: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._end = threading.Timer(_PATIENCE, self._stop)
        self._end.daemon = True
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.create_server((address, port), family=family, backlog=128)
        self.port: int = self._socket.getsockname()[1]

    def __enter__(self):
        self._end.start()
        self._start(self._accept)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._end.cancel()
        self._stop()
        # The first is the one that accepts; after it the list does not grow.
        for thread in self._threads:
            thread.join(_PATIENCE)
            assert not thread.is_alive(), "a script did not end"
        self._end.join()
        self._socket.close()

    def _stop(self) -> None:
        self._stopped.set()
        with self._lock:
            for connection in (self._socket, *self._live):
                # Closing alone would not wake a thread that waits in accept or recv. The
                # method of ssl.SSLSocket would take TLS off a socket that a thread is using.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _address = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            self._start(self._converse, connection)

    def _converse(self, connection: socket.socket) -> None:
        # A client that has seen enough hangs up: that is what most tests ask of it.
        with contextlib.suppress(OSError), self.alive(connection):
            connection.settimeout(_PATIENCE)
            # What is sent leaves at once, in the pieces that the test made.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._script(connection, self._stopped)

    @contextlib.contextmanager
    def alive(self, connection: socket.socket) -> Iterator[None]:
        """Close `connection` at the end of the block, or of the test if that comes first."""
        with connection:
            with self._lock:
                if self._stopped.is_set():
                    raise ConnectionAbortedError
                self._live.add(connection)
            try:
                yield
            finally:
                with self._lock:
                    self._live.discard(connection)


class PolicyHost(Listener):
    """An HTTPS server that gives every request the same `reply`.

    `heads` are the requests it got, `sent` is how many bytes of replies went out. For each
    connection that sent a ClientHello, `server_names` has its SNI (None: without); for each that
    finished the handshake, `alpn` has the protocol that was agreed on.
    """

    def __init__(
        self, reply: Reply, context: ssl.SSLContext, address: str = "127.0.0.1", port: int = 0
    ):
        super().__init__(self._https, address, port)
        self.heads: list[bytes] = []
        self.server_names: list[str | None] = []
        self.alpn: list[str | None] = []
        self.sent = 0
        self._reply = reply
        self._context = context
        context.sni_callback = lambda _tls, name, _context: self.server_names.append(name)

    def _https(self, connection: socket.socket, stopped: threading.Event) -> None:
        # A small buffer, so that `sent` is not much more than what the client has read.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        tls = self._context.wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        with self.alive(tls):
            tls.do_handshake()
            self.alpn.append(tls.selected_alpn_protocol())
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                byte = tls.recv(1)
                if not byte:
                    return
                head += byte
            self.heads.append(head)
            self._send(tls, self._reply(head), stopped)

    def _send(self, tls: ssl.SSLSocket, pieces: Iterable[Piece], stopped: threading.Event) -> None:
        for piece in pieces:
            if isinstance(piece, bytes):
                tls.sendall(piece)
                self.sent += len(piece)
            elif isinstance(piece, Ending):
                _end(tls, piece)
                return
            elif stopped.wait(piece):
                return
        tls.unwrap()


def _end(connection: socket.socket, ending: Ending) -> None:
    match ending:
        case Ending.CUT:
            connection.shutdown(socket.SHUT_RDWR)
        case Ending.RESET:
            # SO_LINGER with no time: close() sends RST (socket(7)).
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        case Ending.OPEN:
            connection.recv(1)


# Scripts for a listener that never comes as far as HTTP.


def silence(connection: socket.socket, _stopped: threading.Event) -> None:
    """Take what comes and never say a word."""
    while connection.recv(65536):
        pass


def hang_up(_connection: socket.socket, _stopped: threading.Event) -> None:
    """Close at once."""


def reset(connection: socket.socket, _stopped: threading.Event) -> None:
    """Reset at once."""
    _end(connection, Ending.RESET)


def hang_up_after_hello(connection: socket.socket, _stopped: threading.Event) -> None:
    """Read the ClientHello and close."""
    connection.recv(65536)


def say(data: bytes) -> Script:
    """Return a script that sends `data` to whoever has said something, and closes."""

    def script(connection: socket.socket, _stopped: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(data)

    return script


def say_for_ever(data: bytes) -> Script:
    """Return a script that sends `data` to whoever has said something, over and over."""

    def script(connection: socket.socket, stopped: threading.Event) -> None:
        connection.recv(65536)
        many = data * (262_144 // len(data))
        while not stopped.is_set():
            connection.sendall(many)

    return script


def half_handshake(context: ssl.SSLContext) -> Script:
    """Return a script that sends half of its part of the TLS handshake, and then nothing."""

    def script(connection: socket.socket, stopped: threading.Event) -> None:
        tunnel = _Tunnel(context, connection)
        tunnel.incoming.write(connection.recv(65536))
        with contextlib.suppress(ssl.SSLWantReadError):
            tunnel.tls.do_handshake()
        tunnel.send_half()
        silence(connection, stopped)

    return script


def slow_handshake(context: ssl.SSLContext, pause: float) -> Script:
    """Return a script that sends its part of the TLS handshake byte by byte."""

    def script(connection: socket.socket, stopped: threading.Event) -> None:
        tunnel = _Tunnel(context, connection)
        tunnel.incoming.write(connection.recv(65536))
        with contextlib.suppress(ssl.SSLWantReadError):
            tunnel.tls.do_handshake()
        tunnel.dribble(pause, stopped)

    return script


def slow_record(context: ssl.SSLContext, data: bytes, pause: float) -> Script:
    """Return a script whose answer is one TLS record with `data`, sent byte by byte."""

    def script(connection: socket.socket, stopped: threading.Event) -> None:
        tunnel = _Tunnel(context, connection)
        tunnel.run(tunnel.tls.do_handshake)
        tunnel.run(lambda: tunnel.tls.read(65536))
        tunnel.tls.write(data)
        tunnel.dribble(pause, stopped)

    return script


class _Tunnel:
    """TLS whose bytes on the wire are ours to send, whole or in pieces."""

    def __init__(self, context: ssl.SSLContext, connection: socket.socket):
        self.incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self._outgoing, server_side=True)
        self._connection = connection

    def run(self, step: Callable[[], object]) -> None:
        """Run a step of the conversation to its end, at full speed."""
        while True:
            try:
                step()
            except ssl.SSLWantReadError:
                self._connection.sendall(self._outgoing.read())
                data = self._connection.recv(65536)
                if not data:
                    raise ConnectionAbortedError from None
                self.incoming.write(data)
            else:
                self._connection.sendall(self._outgoing.read())
                return

    def send_half(self) -> None:
        """Send the first half of what is left."""
        data = self._outgoing.read()
        self._connection.sendall(data[: len(data) // 2])

    def dribble(self, pause: float, stopped: threading.Event) -> None:
        """Send what is left byte by byte, with pauses of `pause` seconds between."""
        for byte in self._outgoing.read():
            self._connection.sendall(bytes([byte]))
            if stopped.wait(pause):
                return


# Replies, and what they are made of.


def page(
    body: bytes = POLICY,
    status: str = "200 OK",
    kind: str | None = "text/plain",
    extra: Iterable[str] = (),
    version: str = "HTTP/1.1",
) -> Reply:
    """Return a reply with Content-Length: `kind` is its media type, `extra` more header lines."""
    top = head(f"Content-Length: {len(body)}", *extra, status=status, kind=kind, version=version)
    return lambda _request: (top, body)


def raw(*pieces: Piece) -> Reply:
    """Return a reply of just these pieces."""
    return lambda _request: pieces


def head(
    *fields: str,
    status: str = "200 OK",
    kind: str | None = "text/plain",
    version: str = "HTTP/1.1",
) -> bytes:
    """Return a status line and header fields, with the empty line that ends them."""
    lines = [f"{version} {status}", *fields]
    if kind is not None:
        lines.append(f"Content-Type: {kind}")
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\n"


def chunk(data: bytes) -> bytes:
    """Return `data` as one chunk; the empty one ends a chunked body (RFC 9112 §7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def dribble(data: bytes, pause: float) -> Iterator[Piece]:
    """Yield `data` byte by byte with pauses of `pause` seconds between."""
    for byte in data:
        yield bytes([byte])
        yield pause


class BlackHole:
    """An address that does not answer a SYN: a listener whose queue is full (Linux drops SYNs).

    Nothing is ever accepted, and no privilege is needed.
    """

    def __init__(self, address: str, port: int):
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, port), family=self._family, backlog=0)
        self._fillers: list[socket.socket] = []

    def __enter__(self) -> BlackHole:
        for _ in range(16):
            filler = socket.socket(self._family)
            self._fillers.append(filler)
            filler.settimeout(0.1)
            try:
                filler.connect(self._listener.getsockname())
            except TimeoutError:
                return self
        self.__exit__()
        raise AssertionError("the queue of a listener never fills up here")

    def __exit__(self, *_exception: object) -> None:
        for filler in self._fillers:
            filler.close()
        self._listener.close()


def has_ipv6_loopback() -> bool:
    """Say whether ::1 can be bound here."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
