"""Policy hosts that have a lookup compute as much as they can.

    hostile_hosts.py ADDRESS PORT names
    hostile_hosts.py ADDRESS PORT chunks CERTIFICATE...

`names`: shows a certificate with 49,000 bytes of empty names, which nobody signed. Of what can be
done without a valid certificate, it costs a lookup most.
`chunks`: has a valid certificate, and sends chunks of one byte, more than are read. Of all that we
know, it costs most. Each CERTIFICATE stands for the files CERTIFICATE.pem, .key and .names.

A signal ends it.
"""

import contextlib
import selectors
import socket
import ssl
import sys
import threading
from pathlib import Path

from world import BENCH

sys.path.insert(0, str(BENCH.parent))
from tests.support.hostile_certificates import element
from tests.support.hostile_handshakes import flight, names

CHUNKS = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKS += b"1\r\nx\r\n" * 30_000


def show_names(listener: socket.socket) -> None:
    """Answer each ClientHello on one thread."""
    answer = flight(*names(element(0x82), 49_000))
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                connection, _ = listener.accept()
                # Room for all of it, so that nobody waits.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)
                selector.register(connection, selectors.EVENT_READ, data=bytearray())
                continue
            connection = key.fileobj
            data = b""
            with contextlib.suppress(OSError):
                if data := connection.recv(65536):
                    connection.sendall(answer)
            if not data:
                selector.unregister(connection)
                connection.close()


def send_chunks(listener: socket.socket, *certificates: str) -> None:
    """Answer each connection on a thread of its own."""
    contexts = {}
    for certificate in certificates:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{certificate}.pem", f"{certificate}.key")
        names = Path(f"{certificate}.names").read_text(encoding="ascii").split()
        contexts |= dict.fromkeys(names, context)

    def choose(tls: ssl.SSLObject, name: str, _: ssl.SSLContext) -> None:
        tls.context = contexts[name]

    context.sni_callback = choose

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(30)
            with context.wrap_socket(connection, server_side=True) as tls:
                tls.recv(65536)
                tls.sendall(CHUNKS)

    while True:
        threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()


def main() -> None:
    """Serve until a signal."""
    address, port, kind, *files = sys.argv[1:]
    with socket.create_server((address, int(port)), backlog=4096) as listener:
        if kind == "names":
            show_names(listener)
        else:
            send_chunks(listener, *files)


if __name__ == "__main__":
    main()
