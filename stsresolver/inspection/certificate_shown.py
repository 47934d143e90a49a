"""The certificate that a server shows, valid or not. Nothing else is asked of that server."""

from __future__ import annotations

import ssl

from ..mta_sts.connector import Connector
from ..net.deadline import Deadline
from ..net.steps import Steps
from ..net.tls import BoundedTls
from .certificate import from_der
from .findings import Certificate

# Bytes read for a handshake.
MAX_HANDSHAKE = 262_144


def certificate_shown(
    connector: Connector, host: str, deadline: Deadline
) -> Steps[Certificate | None]:
    """Return the certificate of `host`, None where it cannot be had or read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (yield from connector.connect(host, deadline)) as connection:
            tls = BoundedTls(connection, context, host, MAX_HANDSHAKE)
            yield from tls.handshake()
            return from_der(tls.certificate())
    except OSError:
        # FetchError, TimeoutError and all of ssl's are: it is looked at for a person only.
        return None
