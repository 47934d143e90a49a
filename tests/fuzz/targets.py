"""What must hold for any bytes whatever, as one function for each thing that reads strangers' text.

A target takes bytes and returns, or raises: `AssertionError` where a promise is broken, anything
else where an error without a name came through. The fuzzer, the corpus and the property tests all
call these.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence

from stsresolver.cache.entry import Entry
from stsresolver.config import keys
from stsresolver.config.settings import Config, Zone
from stsresolver.dane.states import Dane
from stsresolver.lookup import messages
from stsresolver.mta_sts import fetch
from stsresolver.mta_sts.discovery import Discovery
from stsresolver.mta_sts.observer import Observer
from stsresolver.mta_sts.policy import Policy, PolicyError, parse_policy
from stsresolver.mta_sts.record import RecordError, domain_id
from stsresolver.mta_sts.results import Cause, Failure, Found, NoPolicy, NotChanged
from stsresolver.net.deadline import Deadline
from stsresolver.net.dns_messages import Truncated
from stsresolver.net.nameservers import Inquiry, NameServerError, NameServers
from stsresolver.net.steps import Steps, run
from stsresolver.socketmap.answer import Answers
from stsresolver.socketmap.netstring import MAX_REQUEST, NetstringError, cut, encode
from stsresolver.stores import older_daemon
from stsresolver.stores.entry_json import from_json, to_json
from tests.support import postfix_grammar

from .meaning import (
    DOMAIN,
    HEAD,
    KNOWN,
    Known,
    in_one_line,
    is_sound,
    lines,
    one_form,
    says_what_is_meant,
)


def netstring(data: bytes) -> None:
    """The first byte says how long the pieces are in which the rest comes."""
    if not data:
        return
    size, stream = 1 + data[0] % 64, data[1:]
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert cut_up(pieces) == cut_up([stream]), "where a stream is split changes what is read"


def cut_up(pieces: list[bytes]) -> tuple[list[bytes], bytes | None]:
    """Return the payloads in a stream that comes in pieces, and what is left: None if refused."""
    payloads, received = [], b""
    for piece in pieces:
        received += piece
        try:
            while (found := cut(received)) is not None:
                payload, end = found
                assert encode(payload) == received[:end]
                assert len(payload) <= MAX_REQUEST
                payloads.append(payload)
                received = received[end:]
        except NetstringError as error:
            in_one_line(error)
            return payloads, None
    return payloads, received


def record(data: bytes) -> None:
    """The domain's TXT records, one a line."""
    try:
        found = domain_id(data.split(b"\n"))
    except RecordError as error:
        in_one_line(error)
        return
    if found is not None:
        assert re.fullmatch("[A-Za-z0-9]{1,32}", found)
        assert b"v=STSv1" in data
        assert f"id={found}".encode() in data


def policy(data: bytes) -> None:
    """A policy's text: by itself, and as what comes after a policy without fault."""
    for text in (data, HEAD + data):
        try:
            read = parse_policy(text)
        except PolicyError as error:
            in_one_line(error)
            assert 0 <= error.line <= text.count(b"\n") + 1
            continue
        is_sound(read)
        assert list(read.text) == lines(text)
        entry = Entry(DOMAIN, "a", read, 1.0, 2.0, 3.0, 4.0)
        assert from_json(to_json(entry), DOMAIN) == entry
        says_what_is_meant(read)


def next_hop(data: bytes) -> None:
    """A request, as the bytes between the netstring's colon and its comma."""
    known = Known(KNOWN)
    answers = Answers(known, Zone(tlsrpt=True), {"short": Zone()})
    replies = []
    answers.look_up(data, replies.append)
    (reply,) = replies
    assert len(known.asked) <= 1
    code, text = postfix_grammar.reply(reply.data)
    if b" " not in data:
        assert (code, known.asked) == (b"PERM", [])
    elif not known.asked:
        assert (code, text) == (b"NOTFOUND", b"")
    else:
        assert answers.cached(data) == reply
        (domain,) = set(known.asked)
        one_form(domain)
        seen = postfix_grammar.tls_policy(text)
        of_reports = [] if data.startswith(b"short ") else [domain.encode()]
        assert seen.values(b"policy_domain") == of_reports


def configuration(data: bytes) -> None:
    """A configuration file."""
    try:
        read = keys.parse(data, "a.yml")
    except keys.ConfigError as error:
        assert error.problems
        for problem in error.problems:
            in_one_line(problem, ascii_only=False)
            assert problem.startswith("a.yml:")
        return
    assert isinstance(read, Config)
    for warning in read.warnings:
        in_one_line(warning, ascii_only=False)
    assert 0 <= read.port <= 65535
    assert read.cache.cache_size >= 1
    for zone in (read.default_zone, *read.zones.values()):
        assert 0 < zone.timeout <= 40
        assert {type(zone.tlsrpt), type(zone.require_sni), type(zone.strict_testing)} == {bool}


class NoNetwork(NameServers):
    """A name server that answers every question with the same bytes, but for the id."""

    def __init__(self, data: bytes) -> None:
        super().__init__("/dev/null", 53)
        self._data = data

    def _over_udp(
        self, server: str, inquiries: list[Inquiry], deadline: Deadline
    ) -> Steps[Inquiry | None]:
        return next((one for one in inquiries if self._is_truncated(server, one)), None)
        yield

    def _over_tcp(self, server: str, inquiry: Inquiry, deadline: Deadline) -> Steps[None]:
        if self._is_truncated(server, inquiry):
            inquiry.fail(server, "an answer cut short over TCP")
        return
        yield

    def _is_truncated(self, server: str, inquiry: Inquiry) -> bool:
        try:
            if not inquiry.read(server, inquiry.ask(server)[:2] + self._data):
                inquiry.fail(server, "no answer to the question")
        except Truncated:
            return True
        return False


def dns_message(data: bytes) -> None:
    """An answer to all questions, without its first two bytes, which are the question's id."""
    discovery = Discovery(4.0, "/dev/null", 53)
    discovery._name_servers = NoNetwork(data)
    found = run(discovery.policy_id(DOMAIN))
    if isinstance(found, str):
        assert re.fullmatch("[A-Za-z0-9]{1,32}", found)
    else:
        assert isinstance(found, NoPolicy | Failure)
        assert str(found)
        assert getattr(found, "ttl", 0) >= 0
    both: list[Sequence[str] | NameServerError] = []
    run(discovery.addresses("mta-sts.example.com", Deadline(4.0), lambda _, one: both.append(one)))
    assert len(both) == 2
    for addresses in both:
        if isinstance(addresses, NameServerError):
            assert str(addresses)
        else:
            assert all(re.fullmatch("[0-9a-f:.]+", address) for address in addresses)


class Canned:
    """A connection to a policy host that has said all that it says, and no TLS."""

    def __init__(self, said: bytes) -> None:
        self._said = said

    def sendall(self, data: bytes) -> Steps[None]:
        return
        yield

    def recv(self, size: int) -> Steps[bytes]:
        part, self._said = self._said[:size], self._said[size:]
        return part
        yield


class Fetcher(fetch.Fetcher):
    """Fetches every policy over a connection that has said `said`."""

    def __init__(self, said: bytes) -> None:
        super().__init__(4.0, Discovery(4.0, "/dev/null", 53), 443)
        self._said = said

    def _get(self, domain: str, deadline: Deadline, observer: Observer) -> Steps[bytes]:
        return fetch.get_policy(Canned(self._said), f"mta-sts.{domain}")


def http_response(data: bytes) -> None:
    """What a policy host sends: by itself, and as headers and body below a status line."""
    for answer in (data, b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n" + data):
        result = run(Fetcher(answer).fetch(DOMAIN))
        if isinstance(result, Failure):
            assert str(result)
            assert result.cause not in (Cause.DNS, Cause.CONNECT, Cause.DEADLINE)
        else:
            is_sound(result)
            assert answer.startswith((b"HTTP/1.", b" HTTP/1.")) or b"\nHTTP/1." in answer


def stored(data: bytes) -> None:
    """An entry as a store that others may write to gives it back."""
    for text in (data, with_policy(data)):
        try:
            entry = from_json(text, DOMAIN)
        except ValueError as error:
            assert str(error)
            continue
        assert entry.domain == DOMAIN
        assert entry.failure.isprintable()
        assert from_json(to_json(entry), DOMAIN) == entry
        assert math.isfinite(entry.end)
        is_sound(entry.policy)
        says_what_is_meant(entry.policy)
    try:
        is_sound(older_daemon._policy(data))
    except ValueError as error:
        assert str(error)


def with_policy(data: bytes) -> str:
    """Return an entry whose policy's text is `data`."""
    times = dict.fromkeys(("fetched", "checked", "asked", "due", "failed"), 1.0)
    texts = {"domain": DOMAIN, "id": "a", "policy": data.decode("utf-8", "replace"), "failure": ""}
    return json.dumps(texts | times)


def lookup_message(data: bytes) -> None:
    """A message of the resolver process, which a stranger's text may have taken over."""
    try:
        number, what, values = messages.read(data)
        result = messages.read_result(what, values)
    except ValueError as error:
        assert str(error)
        return
    assert messages.read(messages.write_result(number, result))[0] == number
    policy = result.policy if isinstance(result, Found) else result
    if isinstance(policy, Policy):
        is_sound(policy)
        says_what_is_meant(policy)
    if isinstance(result, str):
        assert an_id(result)
    elif isinstance(result, Found | NotChanged):
        assert an_id(result.id)
    elif isinstance(result, Failure):
        assert not result.id or an_id(result.id)
    elif isinstance(result, Dane):
        assert all(host.name.isprintable() for host in result.hosts)
    str(result).encode()


def an_id(text: str) -> bool:
    """Say whether a text is an id of a TXT record."""
    return re.fullmatch("[A-Za-z0-9]{1,32}", text) is not None


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        netstring,
        record,
        policy,
        next_hop,
        configuration,
        dns_message,
        http_response,
        stored,
        lookup_message,
    )
}
