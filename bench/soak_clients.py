"""The clients of a soak: as many as are wanted, each with a way of its own, for as long as it runs.

Each asks about domains of the oracle, in its event loop, and has every answer judged. What breaks
a promise of the protocol (socketmap_table(5)) is an error, told in words: a connection that is
lost, no answer in time, an answer that is no netstring, a broken request that is answered.
"""

import asyncio
import collections
import contextlib
import functools
import random
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from soak_kinds import ZONE
from soak_oracle import NOT_FOUND, ZONES, Oracle

# Seconds that any answer may take.
LONGEST = 30.0
# Answers kept for the percentiles.
LATENCIES = 200_000

# Neither of these begins a netstring that is allowed, or goes on as one.
BROKEN = (
    b"x",
    b"01:a,",
    b"-1:a,",
    b" 1:a,",
    b"12;postfix a.b,",
    b"12:postfix a.bc;",
    b"10301:",
    b"99999999999",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
)
# Requests that need no oracle, and their answers.
PLAIN = {
    b"postfix": b"PERM ",
    b"": b"PERM ",
    b"postfix .stable-0." + ZONE.encode(): NOT_FOUND,
    b"postfix [127.0.0.1]:25": NOT_FOUND,
    b"postfix [::1]": NOT_FOUND,
    b"postfix localhost": NOT_FOUND,
    b"postfix \xff\xfe": NOT_FOUND,
    b"postfix " + b"a" * 10_000: NOT_FOUND,
}


@dataclass
class Tally:
    """What the clients saw. `answers`: by their first word. `latencies`: seconds, the last ones."""

    requests: int = 0
    abandoned: int = 0
    connections: int = 0
    broken: int = 0
    answers: collections.Counter[str] = field(default_factory=collections.Counter)
    errors: list[str] = field(default_factory=list)
    latencies: collections.deque[float] = field(
        default_factory=lambda: collections.deque(maxlen=LATENCIES)
    )


class Wrong(Exception):
    """The server broke the protocol; the text says how."""


@dataclass(frozen=True)
class Question:
    """What is asked: of a domain of the oracle in a zone, or with an answer known beforehand."""

    text: bytes
    zone: int = 0
    domain: str = ""

    @property
    def frame(self) -> bytes:
        """The netstring."""
        return b"%d:%b," % (len(self.text), self.text)


class Client:
    """A connection that is opened again whenever it ends."""

    def __init__(self, number: int, seed: int, oracle: Oracle, tally: Tally, port: int) -> None:
        self._random = random.Random(f"{seed} client {number}")
        self._oracle = oracle
        self._tally = tally
        self._port = port
        self._nobodies = [name for name in oracle.domains if name.startswith("nobody-")]
        self._lively = [
            name for name in oracle.domains if not name.startswith(("nobody-", "hanging-"))
        ]
        ways = list(WAYS)
        self.way = self._random.choices(ways, [WAYS[way] for way in ways])[0]

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            if not await self.once():
                await asyncio.sleep(1)

    async def once(self) -> bool:
        """Go its way on one connection. Return whether nothing was wrong."""
        try:
            await self._connected()
        except (OSError, EOFError, TimeoutError, Wrong) as error:
            why = f"{type(error).__name__}: {error}"
            self._tally.errors.append(f"{self._oracle.now():.3f} a client: {why}")
            return False
        return True

    async def _connected(self) -> None:
        async with asyncio.timeout(LONGEST):
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._tally.connections += 1
        try:
            await self.way(self)
        finally:
            # Aborted, so that a cancelled client leaves at once.
            self._writer.transport.abort()

    def pause(self, longest: float) -> Awaitable[None]:
        """Think for a while."""
        return asyncio.sleep(self._random.uniform(0, longest))

    def question(self) -> Question:
        """Make up a question, mostly about a domain that does something."""
        draw = self._random.random()
        if draw < 0.03:
            return Question(self._random.choice(list(PLAIN)))
        domain = self._random.choice(self._lively if draw < 0.85 else self._nobodies)
        zone = self._random.randrange(len(ZONES))
        form = self._random.choice(("{}", "{}", "{}", "{}", "[{}]", "{}:25", "[{}]:smtp"))
        next_hop = form.format(domain.upper() if draw < 0.1 else domain)
        return Question(f"{ZONES[zone].name} {next_hop}".encode(), zone, domain)

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self._writer.write(data)
        await self._writer.drain()

    async def answered(self, question: Question, sent: float) -> None:
        """Read the answer to a question, and have it judged."""
        begin = self._oracle.now()
        async with asyncio.timeout(LONGEST):
            answer = await self._read()
        received = self._oracle.now()
        self._tally.requests += 1
        self._tally.answers[answer.partition(b" ")[0].decode(errors="replace")] += 1
        self._tally.latencies.append(received - begin)
        if question.domain:
            zone = ZONES[question.zone]
            self._oracle.judge(zone, question.domain, sent, received, answer)
        elif answer != PLAIN[question.text]:
            raise Wrong(f"{question.text[:40]!r} was answered with {answer[:60]!r}")

    async def _read(self) -> bytes:
        length = (await self._reader.readuntil(b":"))[:-1]
        if not length.isdigit():
            raise Wrong(f"no netstring: {length[:40]!r}")
        answer = await self._reader.readexactly(int(length) + 1)
        if answer[-1:] != b",":
            raise Wrong(f"a netstring without its comma: {answer[-40:]!r}")
        return answer[:-1]

    async def ask(self, question: Question | None = None) -> None:
        """Ask one question, this one or any, and wait for the answer."""
        question = question or self.question()
        sent = self._oracle.now()
        await self.send(question.frame)
        await self.answered(question, sent)

    # WAYS OF A CLIENT

    async def quick(self) -> None:
        """As Postfix does under load."""
        for _ in range(self._random.randrange(50, 2000)):
            await self.ask()
            await self.pause(0.15)

    async def slow(self) -> None:
        """As Postfix does mostly."""
        for _ in range(self._random.randrange(1, 20)):
            await self.ask()
            await self.pause(4)

    async def pipelining(self) -> None:
        """Many questions at once."""
        for _ in range(self._random.randrange(1, 20)):
            questions = [self.question() for _ in range(self._random.randrange(2, 40))]
            sent = self._oracle.now()
            await self.send(b"".join(question.frame for question in questions))
            for question in questions:
                await self.answered(question, sent)
            await self.pause(4)

    async def dribbling(self) -> None:
        """A byte at a time."""
        question = self.question()
        frame = question.frame[:400]
        for at in range(len(frame)):
            sent = self._oracle.now()
            await self.send(frame[at : at + 1])
            await self.pause(0.05)
        if len(frame) == len(question.frame):
            await self.answered(question, sent)

    async def breaking(self) -> None:
        """What is no netstring, mostly behind one that is: the connection is closed."""
        if self._random.random() < 0.7:
            await self.ask()
        await self.send(self._random.choice(BROKEN))
        # Not before it is clear that it cannot become one.
        self._writer.write_eof()
        async with asyncio.timeout(LONGEST):
            with contextlib.suppress(ConnectionResetError):
                answer = await self._reader.read()
                if answer:
                    raise Wrong(f"what is no request was answered with {answer[:60]!r}")
        self._tally.broken += 1
        await self.pause(1)

    async def leaving(self) -> None:
        """Go in the middle of a question, or before the answer."""
        frame = b"".join(self.question().frame for _ in range(self._random.randrange(1, 4)))
        if self._random.random() < 0.3:
            frame = frame[: self._random.randrange(1, len(frame))]
        await self.send(frame)
        await self.pause(2)
        if self._random.random() < 0.5:
            # SO_LINGER with no time: close() sends RST (socket(7)).
            connection = self._writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._tally.abandoned += 1

    async def idle(self) -> None:
        """Ask, and stay."""
        await self.ask()
        await self.pause(40)


# How many of a hundred are so.
WAYS: Mapping[Callable[[Client], Awaitable[None]], int] = {
    Client.quick: 30,
    Client.slow: 30,
    Client.pipelining: 12,
    Client.dribbling: 8,
    Client.breaking: 4,
    Client.leaving: 6,
    Client.idle: 10,
}


async def burst(oracle: Oracle, tally: Tally, port: int) -> None:
    """Ask for every hanging domain at once, so that the daemon has all threads that it may have."""

    async def hang(domain: str) -> None:
        client = Client(0, 0, oracle, tally, port)
        question = Question(f"postfix {domain}".encode(), 0, domain)
        client.way = functools.partial(Client.ask, question=question)
        await client.once()

    hanging = [name for name in oracle.domains if name.startswith("hanging-")]
    await asyncio.gather(*map(hang, hanging))


@contextlib.asynccontextmanager
async def asking(count: int, seed: int, oracle: Oracle, tally: Tally, port: int):
    """Have so many clients ask until the block ends; RuntimeError if one ends by itself."""
    async with asyncio.TaskGroup() as group:
        clients = [
            group.create_task(Client(number, seed, oracle, tally, port).run())
            for number in range(count)
        ]
        yield
        for client in clients:
            client.cancel()
