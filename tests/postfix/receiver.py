"""The receiving side: an SMTP server with or without STARTTLS for every line of standard input.

A line is a JSON object: `address` to listen on (port 25), `certificate`, the path of a PEM file
with key and chain, or null for a server that offers no STARTTLS. Standard output gets a JSON
object a line: `{"listening": ADDRESS}`, and one for each mail and recipient that arrives. The
end of standard input is the end of the program.
"""

import asyncio
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP


def say(**what):
    print(json.dumps(what), flush=True)


class Mailbox:
    """Takes every mail for one address and says so."""

    def __init__(self, address, certificate):
        self.address = address
        self.servername = None
        self.context = None
        if certificate:
            self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self.context.load_cert_chain(certificate)
            self.context.sni_callback = self.note_servername

    def note_servername(self, _connection, servername, _context):
        self.servername = servername

    async def handle_DATA(self, _server, session, envelope):
        for recipient in envelope.rcpt_tos:
            say(
                recipient=recipient,
                address=self.address,
                tls=session.ssl is not None,
                servername=self.servername,
            )
        return "250 taken"


async def listen(address, certificate):
    mailbox = Mailbox(address, certificate)
    loop = asyncio.get_running_loop()

    def session():
        mailbox.servername = None
        return SMTP(
            mailbox,
            hostname="receiver.example",
            enable_SMTPUTF8=True,
            tls_context=mailbox.context,
            loop=loop,
        )

    await loop.create_server(session, address, 25)
    say(listening=address)


async def main():
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        await listen(**json.loads(line))


if __name__ == "__main__":
    asyncio.run(main())
