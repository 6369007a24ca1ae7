"""The listener: addresses, deadlines against bad peers (plain and TLS), drain, exhausted descriptors."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import psutil
import pytest
from tornado.web import Application, RequestHandler

from ssis_exporter.addresses import Address
from ssis_exporter.certificates import ServerTls, TlsSettings
from ssis_exporter.connections import Phase
from ssis_exporter.errors import ListenError
from ssis_exporter.handlers import Handler
from ssis_exporter.listening import Limits, Listener
from ssis_exporter.sockets import BACKLOG, close_all, listen_on, peer_name, refusal
from tests.certs import Authority
from tests.serving import DEADLINE, Served, loop_thread, read_all, read_answer, serving, wait_until

QUICK = Limits(handshake_seconds=0.5, head_seconds=0.5, body_seconds=0.5, write_seconds=0.5, max_body_bytes=100_000)
PATIENT = Limits()
HUGE = 24_000_000
"""More than the buffers of both sides hold."""

SMALL_GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Small(Handler):
    async def get(self) -> None:
        self.finish(b"small")


class Large(Handler):
    BODY: ClassVar[bytes] = b"x" * HUGE

    async def get(self) -> None:
        self.finish(self.BODY)


class Echo(Handler):
    async def post(self) -> None:
        self.finish(str(len(self.request.body)))


class Gate:
    """Holds the answers of `Slow` until a test opens it."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.opened = asyncio.Event()


class Slow(RequestHandler):
    def initialize(self, gate: Gate) -> None:
        self.gate = gate

    async def get(self) -> None:
        self.gate.begun.release()
        await self.gate.opened.wait()
        self.finish(b"slow")


def application(gate: Gate | None = None) -> Application:
    """A small, a large, an echoing and a slow page."""
    return Application([("/", Small), ("/large", Large), ("/echo", Echo), ("/slow", Slow, {"gate": gate or Gate()})])


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def tls(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> ServerTls:
    cert, key = authority.sign(names=("localhost", "127.0.0.1")).write(tmp_path_factory.mktemp("tls"))
    return ServerTls(TlsSettings(cert_file=cert, key_file=key))


@pytest.fixture(params=["plain", "tls"])
def quick(request: pytest.FixtureRequest, authority: Authority, tls: ServerTls) -> Iterator[Served]:
    """Short limits, over plain TCP and over TLS."""
    if request.param == "plain":
        with serving(application(), limits=QUICK) as served:
            yield served
    else:
        with serving(application(), limits=QUICK, tls=tls, client_context=authority.client_context()) as served:
            yield served


def is_dropped(peer: socket.socket) -> bool:
    """Whether the other side closes this connection while the test waits."""
    return b"" == read_all(peer)


def drip(peer: socket.socket, data: bytes) -> bool:
    """Sends byte by byte, each well within any limit, until the other side closes; whether it did."""
    deadline = time.monotonic() + DEADLINE
    peer.setblocking(False)
    try:
        while time.monotonic() < deadline:
            peer.send(data[:1] or b"x")
            data = data[1:]
            try:
                if peer.recv(1000) == b"":
                    return True
            except (BlockingIOError, ssl.SSLWantReadError):
                pass
            time.sleep(0.02)
    except (ConnectionError, ssl.SSLError):
        return True
    return False


# Addresses


def test_serves_on_each_address_and_tells_its_port() -> None:
    """
    Several addresses are served at once; port 0 becomes a free one, which the listener tells.
    """
    with loop_thread() as thread:
        listener = thread.call(lambda: Listener(application(), [Address("127.0.0.1", 0), Address("localhost", 0)]))
        thread.run(listener.start)
        answers = []
        for address in listener.addresses:
            with socket.create_connection((address.host, address.port), timeout=DEADLINE) as peer:
                peer.sendall(SMALL_GET)
                answers.append(read_answer(peer).body)
        thread.run(listener.drain)

    assert len(listener.addresses) >= 2
    assert {b"small"} == set(answers)


def test_an_empty_host_is_every_address_of_both_families() -> None:
    """
    `:PORT` is reached over IPv4 and, where the machine has it, over IPv6; the log names IPv4 peers as such.
    """
    sockets = listen_on(Address("", 0))
    try:
        port = sockets[0].getsockname()[1]
        hosts = ["127.0.0.1", "::1"] if sockets[0].family == socket.AF_INET6 else ["127.0.0.1"]
        names = []
        for host in hosts:
            with socket.create_connection((host, port), timeout=DEADLINE):
                sockets[0].settimeout(DEADLINE)
                accepted, address = sockets[0].accept()
                accepted.close()
                names.append(peer_name(address))
    finally:
        close_all(sockets)

    assert hosts == names


def test_ipv4_wildcard_is_ipv4_only() -> None:
    """
    `0.0.0.0:PORT` leaves IPv6 alone.
    """
    sockets = listen_on(Address("0.0.0.0", 0))
    families = [one.family for one in sockets]
    close_all(sockets)

    assert [socket.AF_INET] == families


def test_port_in_use_is_one_sentence_and_nothing_stays_bound() -> None:
    """
    When one of several addresses cannot be had, the error names it and the others are let go.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken, loop_thread() as thread:
        port = taken.getsockname()[1]
        free = socket.create_server(("127.0.0.1", 0))
        free_port = free.getsockname()[1]
        free.close()
        wanted = [Address("127.0.0.1", free_port), Address("127.0.0.1", port)]
        listener = thread.call(lambda: Listener(application(), wanted))
        with pytest.raises(ListenError) as caught:
            thread.run(listener.start)
        again = socket.create_server(("127.0.0.1", free_port))
        again.close()

    sentence = f"cannot listen on 127.0.0.1:{port}: port {port} is in use by another program"
    # Windows may have reserved it, too.
    assert sentence == str(caught.value).partition(" (reserved")[0]
    assert () == listener.addresses


def test_an_address_of_another_machine_is_one_sentence() -> None:
    """
    An address that this machine does not have is named.
    """
    with pytest.raises(ListenError) as caught:
        listen_on(Address("192.0.2.1", 10058))

    assert "cannot listen on 192.0.2.1:10058: this machine has no address 192.0.2.1" == str(caught.value)


def test_a_name_that_does_not_resolve_is_one_sentence() -> None:
    """
    A host name nobody knows is named.
    """
    with pytest.raises(ListenError) as caught:
        listen_on(Address("no-such-host.invalid", 10058))

    assert "cannot listen on no-such-host.invalid:10058: the name no-such-host.invalid does not resolve" == str(
        caught.value
    )


@pytest.mark.parametrize(
    ("code", "windows", "expected"),
    [
        (errno.EADDRINUSE, False, "port 80 is in use by another program"),
        (
            10048,
            True,
            "port 80 is in use by another program (reserved ranges: NETSH)",
        ),
        (
            10013,
            True,
            "another program holds port 80 or Windows has reserved it (see: NETSH)",
        ),
        (errno.EACCES, False, "this account may not use port 80; ports below 1024 need more rights"),
        (errno.EADDRNOTAVAIL, False, "this machine has no address 10.0.0.1"),
        (errno.EMFILE, False, os.strerror(errno.EMFILE)),
        (10055, True, "no room, says Windows"),
    ],
)
def test_why_an_address_cannot_be_had(code: int, *, windows: bool, expected: str) -> None:
    """
    Each reason says what to do; on Windows also where to look for reserved ports.
    """
    expected = expected.replace("NETSH", "netsh int ipv4 show excludedportrange protocol=tcp")
    said = refusal(Address("10.0.0.1", 80), OSError(code, "no room, says Windows"), windows=windows)

    assert f"cannot listen on 10.0.0.1:80: {expected}" == said


def test_many_can_wait_to_be_accepted() -> None:
    """
    A hundred scrapers that come at once find room in the queue.
    """
    assert BACKLOG >= 128


# Ordinary peers


def test_a_connection_stays_open_for_the_next_request(quick: Served) -> None:
    """
    One connection serves one request after the other; between them it waits, with no deadline left from the answer.
    """
    with quick.connect() as peer:
        bodies = []
        for _ in range(3):
            peer.sendall(SMALL_GET)
            bodies.append(read_answer(peer).body)
        wait_until(lambda: [Phase.WAITING] == [one.phase for one in quick.listener._connections], "the next head")
        deadlines = [one._deadline for one in quick.listener._connections]

    assert [b"small"] * 3 == bodies
    assert [None] == deadlines


def test_no_answer_names_the_server(quick: Served) -> None:
    """
    What serves is nobody's business.
    """
    assert "server" not in quick.get("/").headers


def test_a_large_answer_comes_whole(quick: Served) -> None:
    """
    An answer beyond all buffers comes whole to a peer that reads.
    """
    assert HUGE == len(quick.get("/large").body)


# Bad peers


def test_a_silent_peer_is_dropped(quick: Served) -> None:
    """
    Who says nothing is dropped when the time for a head is over, and delays nobody.
    """
    with quick.connect() as peer:
        assert b"small" == quick.get("/").body
        assert is_dropped(peer)


def test_fifty_peers_that_do_not_even_shake_hands_are_dropped(quick: Served) -> None:
    """
    The handshake is off the accept path and has a deadline.
    """
    peers = [quick.connect(handshake=False) for _ in range(50)]
    try:
        assert b"small" == quick.get("/").body
        assert all(is_dropped(peer) for peer in peers)
    finally:
        close_all(peers)


def test_a_dripping_head_is_cut(quick: Served) -> None:
    """
    The time for a head is a total: a byte does not renew it.
    """
    with quick.connect() as peer:
        assert b"small" == quick.get("/").body
        assert drip(peer, b"GET / HTTP/1.1\r\nX: ")


def test_a_dripping_body_is_cut(quick: Served) -> None:
    """
    The time for a body is a total, too.
    """
    with quick.connect() as peer:
        peer.sendall(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
        assert b"small" == quick.get("/").body
        assert drip(peer, b"")


def test_a_half_closed_peer_is_dropped() -> None:
    """
    Who closes its side within a head is dropped at once, long before the head's time is over.
    """
    with serving(application(), limits=PATIENT) as served, served.connect() as peer:
        peer.sendall(b"GET / HT")
        peer.shutdown(socket.SHUT_WR)

        assert is_dropped(peer)


def test_a_head_over_the_limit_is_refused(quick: Served) -> None:
    """
    More than 16 KiB of head closes the connection.
    """
    with quick.connect() as peer:
        assert b"small" == quick.get("/").body
        try:
            peer.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000)
        except ConnectionError:
            return
        assert is_dropped(peer)


@pytest.mark.parametrize(
    "request_head",
    [
        b"Content-Length: 100001\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n186a1\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"Content-Length: -5\r\n\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ],
)
def test_bodies_too_large_or_ambiguous_are_refused(quick: Served, request_head: bytes) -> None:
    """
    A body over the limit, announced or chunked, and one whose length can be read in two ways is 400.
    """
    answer = quick.ask(b"POST /echo HTTP/1.1\r\nHost: localhost\r\n" + request_head)

    assert answer.startswith(b"HTTP/1.1 400 ")


def test_a_body_within_the_limit_is_read(quick: Served) -> None:
    """
    The largest body allowed comes through.
    """
    head = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n"

    assert quick.ask(head + b"x" * 100_000).endswith(b"\r\n\r\n100000")


def test_a_reader_who_does_not_read_is_cut(quick: Served) -> None:
    """
    The time to read an answer is a total; meanwhile others are answered.
    """
    with quick.connect(receive_buffer=4096) as peer:
        peer.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: Phase.WRITING in phases(quick), "the answer begins")
        assert b"small" == quick.get("/").body
        wait_until(lambda: not quick.listener.connections, "the reader is cut")
        assert len(read_all(peer)) < HUGE


def test_a_reader_who_drips_is_cut() -> None:
    """
    A little reading now and then does not renew the time.
    """
    with serving(application(), limits=QUICK) as served, served.connect(receive_buffer=4096) as peer:
        peer.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        read = 0
        deadline = time.monotonic() + DEADLINE
        try:
            while (part := peer.recv(2000)) and time.monotonic() < deadline:
                read += len(part)
                time.sleep(0.02)
        except ConnectionError:
            pass

        assert read < HUGE
        assert time.monotonic() < deadline


def phases(served: Served) -> list[Phase]:
    """Of all open connections."""
    return [one.phase for one in list(served.listener._connections)]


def test_the_longest_idle_makes_room() -> None:
    """
    Beyond the limit the connection that has been idle longest is closed, and the newest is served.
    """
    with serving(application(), limits=replace(PATIENT, max_connections=10)) as served:
        peers = []
        for number in range(15):
            peers.append(served.connect())
            wait_until(lambda number=number: min(number + 1, 10) == served.listener.connections, "it is accepted")
        try:
            dropped = [is_dropped(peer) for peer in peers[:5]]
            peers[-1].sendall(SMALL_GET)
            newest = read_answer(peers[-1]).body
            beside = served.get("/").body
        finally:
            close_all(peers)

    assert [True] * 5 == dropped
    assert (b"small", b"small") == (newest, beside)


def test_who_works_does_not_make_room_for_who_idles() -> None:
    """
    A request that is being answered outlives any number of idle connections.
    """
    gate = Gate()
    with serving(application(gate), limits=replace(PATIENT, max_connections=5)) as served, served.connect() as peer:
        peer.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert gate.begun.acquire(timeout=DEADLINE)
        idle = [served.connect() for _ in range(20)]
        wait_until(lambda: is_dropped(idle[0]), "room is made")
        served.thread.call(gate.opened.set)
        answer = read_all(peer)
        close_all(idle)

    assert answer.endswith(b"slow")


def test_five_hundred_idle_peers_cost_nothing() -> None:
    """
    With 500 idle connections a scrape is answered, and none of them is closed.
    """
    with serving(application(), limits=PATIENT) as served:
        served.listener._max_connections = 512  # this machine's limit of descriptors may be low
        with holder(served.port, 500):
            wait_until(lambda: served.listener.connections >= 500, "all are accepted")
            body = served.get("/").body
            held = served.listener.connections

    assert b"small" == body
    assert held >= 500


class holder:  # noqa: N801 - reads as a verb
    """A process that holds idle connections: their descriptors are not the server's."""

    CODE: ClassVar[str] = (
        "import socket, sys\n"
        "held = [socket.create_connection(('127.0.0.1', int(sys.argv[1]))) for _ in range(int(sys.argv[2]))]\n"
        "sys.stdin.read()\n"
    )

    def __init__(self, port: int, count: int) -> None:
        self._command = [sys.executable, "-c", self.CODE, str(port), str(count)]

    def __enter__(self) -> None:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE)

    def __exit__(self, *exc_info: object) -> None:
        self._process.communicate(timeout=DEADLINE)


# Ending


def test_drain_answers_what_runs_and_closes_the_rest() -> None:
    """
    A request that runs is answered, idle connections are closed at once, new ones are refused.
    """
    gate = Gate()
    with serving(application(gate), limits=PATIENT) as served, ThreadPoolExecutor() as pool:
        with served.connect() as idle, served.connect() as working:
            working.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert gate.begun.acquire(timeout=DEADLINE)
            draining = pool.submit(served.thread.run, lambda: served.listener.drain(DEADLINE))
            assert is_dropped(idle)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", served.port), timeout=DEADLINE)
            assert not draining.done()
            served.thread.call(gate.opened.set)
            answer = read_all(working)
            draining.result(DEADLINE)

    assert answer.endswith(b"slow")


def test_drain_does_not_wait_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    """
    What is not answered in time is cut off, and the log says how many.
    """
    gate = Gate()
    with serving(application(gate), limits=PATIENT) as served, served.connect() as working:
        working.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert gate.begun.acquire(timeout=DEADLINE)
        served.thread.run(lambda: served.listener.drain(0.05))
        assert is_dropped(working)
        served.thread.call(gate.opened.set)

    assert "1 requests were not answered within 0.05 s and are cut off" in caplog.messages


# TLS


def test_plain_text_on_a_tls_port_is_dropped(authority: Authority, tls: ServerTls) -> None:
    """
    Who does not speak TLS is dropped at once, without an answer.
    """
    with serving(application(), tls=tls, client_context=authority.client_context()) as served:
        with served.connect(handshake=False) as peer:
            peer.sendall(SMALL_GET)
            said = read_all(peer)
        body = served.get("/").body

    assert b"HTTP" not in said
    assert b"small" == body


@pytest.mark.parametrize(
    ("names", "admitted"),
    [
        (("prometheus.example.com",), True),
        (("other.example.com", "10.1.2.3"), True),
        (("::1",), True),
        (("scraper@example.com",), True),
        (("spiffe://corp/prometheus",), True),
        (("other.example.com",), False),
        (("x.prometheus.example.com",), False),
        ((), False),
    ],
)
def test_only_clients_with_an_allowed_name_may_speak(
    authority: Authority, tmp_path: Path, names: tuple[str, ...], *, admitted: bool
) -> None:
    """
    A verified client certificate needs one of the allowed names, exactly; otherwise nothing it says is read.
    """
    cert, key = authority.sign().write(tmp_path)
    tls = ServerTls(
        TlsSettings(
            cert_file=cert,
            key_file=key,
            client_ca=authority.cert,
            client_certificate=ssl.CERT_REQUIRED,
            client_allowed_sans=(
                "prometheus.example.com",
                "10.1.2.3",
                "0:0:0:0:0:0:0:1",
                "scraper@example.com",
                "spiffe://corp/prometheus",
            ),
        )
    )
    client = authority.sign(names=names).client_context(tmp_path, authority.cert)
    with serving(application(), tls=tls, client_context=client) as served:
        answer = served.ask(SMALL_GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))

    assert admitted == answer.endswith(b"small")
    assert admitted == bool(answer)


def test_a_client_without_a_certificate_is_refused(authority: Authority, tmp_path: Path) -> None:
    """
    Where a client certificate is demanded, nobody speaks without one.
    """
    cert, key = authority.sign().write(tmp_path)
    settings = TlsSettings(cert_file=cert, key_file=key, client_ca=authority.cert, client_certificate=ssl.CERT_REQUIRED)
    with serving(application(), tls=ServerTls(settings), client_context=authority.client_context()) as served:
        with pytest.raises(ssl.SSLError):
            served.get("/")


# Exhausted descriptors


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of descriptors to exhaust")
def test_exhausted_descriptors_do_not_spin_or_end_it() -> None:
    """
    Without descriptors an idle connection makes room; without any of those the process rests and recovers.
    """
    with exhausted_server(100) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        port = int(process.stdout.readline())

        def tell(word: str) -> str:
            process.stdin.write(word + "\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        idle = [socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) for _ in range(10)]
        wait_until(lambda: "10" == tell("connections"), "all are accepted")

        assert "hoarding" == tell("hoard")
        assert b"small" == ask(port)

        for peer in idle:
            peer.close()
        wait_until(lambda: "0" == tell("connections"), "all are gone")
        assert "hoarding" == tell("hoard")
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as waiting:
            waiting.sendall(SMALL_GET)
            before = sum(psutil.Process(process.pid).cpu_times()[:2])
            time.sleep(1.0)
            spent = sum(psutil.Process(process.pid).cpu_times()[:2]) - before
            assert "released" == tell("release")
            recovered = read_answer(waiting).body
        process.stdin.close()
        code = process.wait(DEADLINE)

    assert spent < 0.5
    assert b"small" == recovered
    assert 0 == code


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of descriptors to exhaust")
@pytest.mark.parametrize("descriptors", [24, 64])
def test_a_silent_crowd_beyond_the_descriptors_makes_room(descriptors: int) -> None:
    """
    However few descriptors there are, hundreds who say nothing do not keep waiting who asks for something.
    """
    with exhausted_server(descriptors) as process, ExitStack() as crowd:
        assert process.stdin is not None
        assert process.stdout is not None
        port = int(process.stdout.readline())

        def come() -> socket.socket:
            return crowd.enter_context(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE))

        # Nothing is accepted until all of them, and in their midst who asks, stand in the queue.
        process.send_signal(signal.SIGSTOP)
        for _ in range(BACKLOG // 2):
            come()
        peer = come()
        peer.sendall(SMALL_GET)
        for _ in range(BACKLOG // 4):
            come()
        process.send_signal(signal.SIGCONT)
        answer = read_answer(peer).body
        process.stdin.close()
        code = process.wait(DEADLINE)

    assert b"small" == answer
    assert 0 == code


def exhausted_server(descriptors: int) -> subprocess.Popen[str]:
    """A listener that may have so many descriptors; it says its port first."""
    command = [sys.executable, "-m", "tests.exhausted_server", str(descriptors)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(port: int) -> bytes:
    """The small page."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as peer:
        peer.sendall(SMALL_GET)
        return read_answer(peer).body
