"""The servers of a soak: DNS on 127.0.0.1:53 and policy hosts on port 443.

Both run in the event loop of the caller and do what the life of a domain says for this moment.
What matters to who judges the answers is told to the `soak_oracle` before it leaves.
"""

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import trustme
from soak_lives import NEGATIVE_TTL, Host, Phase, Record
from soak_oracle import Domain, Oracle

SERVER = "127.0.0.1"
# Nobody listens there.
NOWHERE = "127.0.0.3"
# Names that one certificate is for.
NAMES = 100
# Seconds; a client gives up before.
PATIENCE = 30.0
HOST = re.compile(rb"\r\nhost: mta-sts\.([a-z0-9.-]+)\r\n", re.IGNORECASE)


class Names(asyncio.DatagramProtocol):
    """The name server. `asked`: how many questions there were so far."""

    def __init__(self, oracle: Oracle) -> None:
        self.asked = 0
        self._oracle = oracle

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        """Keep what answers go out by."""
        self._transport = transport

    def datagram_received(self, data: bytes, client: tuple) -> None:
        """Answer a question, or keep silent."""
        self.asked += 1
        query = dns.message.from_wire(data)
        answer = self._answer(query)
        if answer is not None:
            self._transport.sendto(answer.to_wire(), client)

    def _answer(self, query: dns.message.Message) -> dns.message.Message | None:
        question = query.question[0]
        answer = dns.message.make_response(query, recursion_available=True)
        label, _, name = question.name.to_text(omit_final_dot=True).lower().partition(".")
        domain = self._oracle.domains.get(name)
        texts: list[str] = []
        if domain is None:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif label == "_mta-sts":
            phase = domain.phase(self._oracle.now())
            if phase.record is Record.SILENCE:
                return None
            texts = _record(phase, answer)
        elif label == "mta-sts":
            texts = self._address(domain, question.rdtype, answer)
        if texts:
            rrset = dns.rrset.from_text_list(question.name, 60, "IN", question.rdtype, texts)
            answer.answer.append(rrset)
        elif answer.rcode() != dns.rcode.SERVFAIL:
            soa = f"ns. root. 1 7200 900 1209600 {NEGATIVE_TTL}"
            # The root is asked about by a daemon that doubts its name servers.
            parent = question.name.parent() if question.name.labels[1:] else question.name
            answer.authority.append(dns.rrset.from_text(parent, NEGATIVE_TTL, "IN", "SOA", soa))
        return answer

    def _address(
        self, domain: Domain, rdtype: dns.rdatatype.RdataType, answer: dns.message.Message
    ) -> list[str]:
        host = domain.phase(self._oracle.now()).host
        if host in (Host.SERVFAIL, Host.GONE, Host.REFUSED):
            self._oracle.failed(domain)
        if host is Host.SERVFAIL:
            answer.set_rcode(dns.rcode.SERVFAIL)
        if host in (Host.SERVFAIL, Host.GONE) or rdtype != dns.rdatatype.A:
            return []
        return [NOWHERE if host is Host.REFUSED else SERVER]


def _record(phase: Phase, answer: dns.message.Message) -> list[str]:
    """The TXT records of a phase."""
    match phase.record:
        case Record.THERE:
            return [f'"v=STSv1; id={phase.id}"']
        case Record.MALFORMED:
            return ['"v=STSv1; id=not-an-id"']
        case Record.SEVERAL:
            return [f'"v=STSv1; id={phase.id}"', '"v=STSv1; id=other"']
        case Record.NXDOMAIN:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        case Record.SERVFAIL:
            answer.set_rcode(dns.rcode.SERVFAIL)
    return []


class PolicyHosts:
    """The policy hosts. `served` and `refused`: how often so far."""

    def __init__(self, oracle: Oracle, directory: Path) -> None:
        self.served = 0
        self.refused = 0
        self._oracle = oracle
        authority = trustme.CA()
        authority.cert_pem.write_to_path(directory / "ca.pem")
        names = [f"mta-sts.{domain}" for domain in oracle.domains]
        # Each is some 3 kB large, as a real one with its chain.
        self._right: dict[str, ssl.SSLContext] = {}
        for first in range(0, len(names), NAMES):
            some = names[first : first + NAMES]
            self._right |= dict.fromkeys(some, _context(authority, *some))
        self._wrong = _context(trustme.CA(), "mta-sts.example.com")
        self.context = _context(authority, "mta-sts.example.com")
        self.context.sni_callback = self._choose

    def _choose(self, tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        """Present the certificate of the policy host that is asked for."""
        domain = self._oracle.domains.get((name or "").removeprefix("mta-sts."))
        if domain is None:
            return
        self._oracle.contacted(domain)
        if domain.phase(self._oracle.now()).host is Host.CERTIFICATE:
            self._fail(domain)
            tls.context = self._wrong
        else:
            tls.context = self._right[name]

    def _fail(self, domain: Domain) -> None:
        self.refused += 1
        self._oracle.contact_ended(domain)
        self._oracle.failed(domain)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Give the policy to a client, or what the phase has in its place."""
        # A client that has seen enough hangs up.
        with contextlib.suppress(OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._serve(reader, writer)
            finally:
                writer.close()
            await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        name = HOST.search(head)[1].decode()
        domain = self._oracle.domains[name]
        began = self._oracle.now()
        phase = domain.phase(began)
        if phase.host is not Host.WELL:
            self._fail(domain)
        match phase.host:
            case Host.WELL:
                self._oracle.serves(domain, phase.policy.version)
                self.served += 1
                writer.write(_page("\r\n".join((*phase.policy.fields, ""))))
            case Host.STATUS:
                writer.write(_page("", "503 Service Unavailable"))
            case Host.MALFORMED:
                writer.write(_page("version: STSv1\nmode: enforced\nmax_age: 1\n"))
            case Host.SILENCE:
                pass
            case _:
                return
        await writer.drain()
        await reader.read()
        if phase.host is Host.WELL:
            self._oracle.served(domain, phase.policy.version, began)


def _page(body: str, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def _context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


@contextlib.asynccontextmanager
async def serving(oracle: Oracle, hosts: PolicyHosts) -> AsyncIterator[Names]:
    """Serve until the block ends; gives the name server."""
    loop = asyncio.get_running_loop()
    transport, names = await loop.create_datagram_endpoint(
        lambda: Names(oracle), local_addr=(SERVER, 53)
    )
    server = await asyncio.start_server(hosts.serve, SERVER, 443, ssl=hosts.context, backlog=4096)
    try:
        yield names
    finally:
        server.close()
        transport.close()
