"""The TDS 7.4 wire: packets, the types of columns and parameters, the tokens of an answer (see MS-TDS)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any, Protocol
from uuid import UUID

HEADER = struct.Struct(">BBHHBx")
BLOCK_SIZE = 4096

BATCH, RPC, REPLY, ATTENTION, TRANSACTION, LOGIN, SSPI, PRELOGIN = 1, 3, 4, 6, 14, 16, 17, 18

COLLATION = b"\x09\x04\xd0\x00\x34"
"""SQL_Latin1_General_CP1_CI_AS."""

DONE, DONEPROC, DONEINPROC = 0xFD, 0xFE, 0xFF
DONE_MORE, DONE_ERROR, DONE_COUNT, DONE_ATTENTION = 0x01, 0x02, 0x10, 0x20


class Channel(Protocol):
    """Bytes in and out: the socket, or the TLS session inside it."""

    def recv_exactly(self, size: int) -> bytes:
        """So many bytes; raises `ConnectionError` when the other side is gone."""

    def send(self, data: bytes) -> None:
        """All of it."""


def read_message(channel: Channel) -> tuple[int, bytes]:
    """One whole message (its packets joined): type and payload."""
    payload = bytearray()
    while True:
        kind, status, size, _, _ = HEADER.unpack(channel.recv_exactly(HEADER.size))
        if size < HEADER.size:
            raise ConnectionError("packet shorter than its header")
        payload += channel.recv_exactly(size - HEADER.size)
        if status & 1:
            return kind, bytes(payload)


def packets(kind: int, payload: bytes, spid: int = 51) -> bytes:
    """A payload cut into packets."""
    room = BLOCK_SIZE - HEADER.size
    pieces = [payload[at : at + room] for at in range(0, len(payload), room)] or [b""]
    out = bytearray()
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        out += HEADER.pack(kind, int(last), len(piece) + HEADER.size, spid, (number + 1) % 256)
        out += piece
    return bytes(out)


# Types ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SqlType:
    """A SQL type: how it is announced and how a value that is not NULL is written (without and with its length)."""

    name: str
    info: bytes
    encode: Callable[[Any], bytes]
    length_prefix: str = "<B"
    is_max: bool = False

    def cell(self, value: Any) -> bytes:
        """A value, NULL included, as it stands in a ROW token."""
        if self.is_max:
            if value is None:
                return b"\xff" * 8
            data = self.encode(value)
            chunk = struct.pack("<L", len(data)) + data if data else b""
            return struct.pack("<Q", len(data)) + chunk + b"\0\0\0\0"
        if value is None:
            return b"\xff\xff" if self.length_prefix == "<H" else b"\0"
        data = self.encode(value)
        return struct.pack(self.length_prefix, len(data)) + data


def _integer(name: str, size: int) -> SqlType:
    form = struct.Struct({1: "<B", 2: "<h", 4: "<i", 8: "<q"}[size])
    return SqlType(name, bytes([0x26, size]), lambda value: form.pack(int(value)))


def nvarchar(size: int | None) -> SqlType:
    """`nvarchar(size)`; None is `nvarchar(max)`."""
    info = b"\xe7" + (b"\xff\xff" if size is None else struct.pack("<H", size * 2)) + COLLATION
    return SqlType("nvarchar", info, lambda value: str(value).encode("utf-16-le", "surrogatepass"), "<H", size is None)


def varbinary(size: int | None) -> SqlType:
    """`varbinary(size)`; None is `varbinary(max)`."""
    info = b"\xa5" + (b"\xff\xff" if size is None else struct.pack("<H", size))
    return SqlType("varbinary", info, bytes, "<H", size is None)


EPOCH_DAY = date(1, 1, 1).toordinal()


def encode_datetimeoffset(text: str) -> bytes:
    """From `2026-01-02T03:04:05.1234567+02:00` (the seven digits are kept): UTC time of day, day, offset in minutes."""
    stamp, offset = parse_stamp(text)
    utc = stamp.astimezone(UTC)
    fraction = text.partition(".")[2]
    digits = "".join(char for char in fraction[:7] if char.isdigit()) if fraction else ""
    seconds = utc.hour * 3600 + utc.minute * 60 + utc.second
    ticks = seconds * 10_000_000 + int((digits or "0").ljust(7, "0"))
    days = utc.date().toordinal() - EPOCH_DAY
    return struct.pack("<Q", ticks)[:5] + struct.pack("<L", days)[:3] + struct.pack("<h", offset)


def parse_stamp(text: str) -> tuple[datetime, int]:
    """A stored time of seven digits as an aware datetime (microseconds) and its offset in minutes."""
    clock, sign, offset = text[:19], text[-6], text[-5:]
    minutes = (int(offset[:2]) * 60 + int(offset[3:])) * (-1 if sign == "-" else 1)
    zone = timezone(timedelta(minutes=minutes))
    return datetime.fromisoformat(clock).replace(tzinfo=zone), minutes


def stamp(moment: datetime) -> str:
    """An aware datetime as the tables store it."""
    text = moment.strftime("%Y-%m-%dT%H:%M:%S") if moment.year >= 1000 else moment.isoformat()[:19]
    offset = moment.utcoffset() or timedelta()
    minutes = int(offset.total_seconds() // 60)
    sign = "-" if minutes < 0 else "+"
    return f"{text}.{moment.microsecond:06d}0{sign}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"


def encode_datetime(text: str) -> bytes:
    """The old `datetime`: days since 1900 and three-hundredths of a second."""
    moment = datetime.fromisoformat(text)
    days = moment.date().toordinal() - date(1900, 1, 1).toordinal()
    clock = ((moment.hour * 60 + moment.minute) * 60 + moment.second) * 300 + moment.microsecond * 300 // 1_000_000
    return struct.pack("<iI", days, clock)


TYPES: dict[str, SqlType] = {
    "tinyint": _integer("tinyint", 1),
    "smallint": _integer("smallint", 2),
    "int": _integer("int", 4),
    "bigint": _integer("bigint", 8),
    "bit": SqlType("bit", b"\x68\x01", lambda value: bytes([1 if value else 0])),
    "float": SqlType("float", b"\x6d\x08", lambda value: struct.pack("<d", value)),
    "uniqueidentifier": SqlType("uniqueidentifier", b"\x24\x10", lambda value: UUID(str(value)).bytes_le),
    "datetimeoffset": SqlType("datetimeoffset", b"\x2b\x07", encode_datetimeoffset),
    "datetime": SqlType("datetime", b"\x6f\x08", encode_datetime),
    "char(1)": nvarchar(1),
    "sysname": nvarchar(128),
    "nvarchar(128)": nvarchar(128),
    "nvarchar(260)": nvarchar(260),
    "nvarchar(1024)": nvarchar(1024),
    "nvarchar(4000)": nvarchar(4000),
    "nvarchar(max)": nvarchar(None),
    "varbinary(85)": varbinary(85),
    "varbinary(max)": varbinary(None),
}


# Answers -------------------------------------------------------------------------------------------------------


def b_varchar(text: str) -> bytes:
    """A short string with its length in characters in one byte."""
    return bytes([len(text.encode("utf-16-le")) // 2]) + text.encode("utf-16-le")


def us_varchar(text: str) -> bytes:
    """A string with its length in characters in two bytes."""
    data = text.encode("utf-16-le")
    return struct.pack("<H", len(data) // 2) + data


def column_metadata(columns: Sequence[tuple[str, str]]) -> bytes:
    """COLMETADATA for (name, type) pairs."""
    out = bytearray(struct.pack("<BH", 0x81, len(columns)))
    for name, type_name in columns:
        out += struct.pack("<LH", 0, 0x09) + TYPES[type_name].info + b_varchar(name)
    return bytes(out)


def row(columns: Sequence[tuple[str, str]], values: Sequence[Any]) -> bytes:
    """One row: ROW, or NBCROW (as real servers do) where something in it is NULL."""
    types = [TYPES[type_name] for _, type_name in columns]
    if None not in values:
        return b"\xd1" + b"".join(kind.cell(value) for kind, value in zip(types, values, strict=True))
    nulls = bytearray((len(columns) + 7) // 8)
    cells = bytearray()
    for place, (kind, value) in enumerate(zip(types, values, strict=True)):
        if value is None:
            nulls[place // 8] |= 1 << (place % 8)
        else:
            cells += kind.cell(value)
    return b"\xd2" + bytes(nulls) + bytes(cells)


def done(token: int, status: int, count: int = 0) -> bytes:
    """DONE, DONEPROC or DONEINPROC."""
    return struct.pack("<BHHQ", token, status, 0xC1, count)


def return_status(value: int) -> bytes:
    """What a procedure returned."""
    return struct.pack("<Bi", 0x79, value)


def message(
    number: int, text: str, *, severity: int, state: int = 1, procedure: str = "", server: str = "TEST"
) -> bytes:
    """ERROR (severity above 10) or INFO."""
    body = struct.pack("<iBB", number, state, severity) + us_varchar(text) + b_varchar(server) + b_varchar(procedure)
    body += struct.pack("<i", 1)
    return struct.pack("<BH", 0xAA if severity > 10 else 0xAB, len(body)) + body


def environment(kind: int, new: bytes, old: bytes = b"\0") -> bytes:
    """ENVCHANGE with values that carry their own lengths."""
    body = bytes([kind]) + new + old
    return struct.pack("<BH", 0xE3, len(body)) + body


def login_answer(database: str, product_version: int) -> bytes:
    """What a server says to a login that it lets in."""
    program = us_varchar("Microsoft SQL Server\0\0")[2:]
    ack = struct.pack(">BL", 1, 0x74000004) + bytes([len(program) // 2]) + program + struct.pack(">L", product_version)
    return (
        environment(1, b_varchar(database), b_varchar("master"))
        + message(5701, f"Changed database context to '{database}'.", severity=0, state=2)
        + environment(7, bytes([5]) + COLLATION)
        + environment(4, b_varchar(str(BLOCK_SIZE)), b_varchar(str(BLOCK_SIZE)))
        + struct.pack("<BH", 0xAD, len(ack))
        + ack
        + done(DONE, 0)
    )


# Requests ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """A parameter of an RPC."""

    name: str
    type_name: str
    value: Any


class Reader:
    """Reads a request from its start to its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_done(self) -> bool:
        """Whether all was read."""
        return self._at >= len(self._data)

    def take(self, size: int) -> bytes:
        """So many bytes."""
        if self._at + size > len(self._data):
            raise ConnectionError("request is shorter than it says")
        piece = self._data[self._at : self._at + size]
        self._at += size
        return piece

    def unpack(self, form: str) -> Any:
        """One number."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self, characters: int) -> str:
        """A string of so many UTF-16 units."""
        return self.take(characters * 2).decode("utf-16-le", "surrogatepass")

    def rest(self) -> bytes:
        """What is left."""
        return self.take(len(self._data) - self._at)

    def skip_all_headers(self) -> None:
        """The ALL_HEADERS block before a batch or an RPC."""
        total = self.unpack("<L")
        self.take(total - 4)


def read_parameter(reader: Reader) -> Parameter:
    """One parameter of an RPC: name, flags, type, value."""
    name = reader.text(reader.unpack("<B"))
    reader.unpack("<B")
    kind = reader.unpack("<B")
    value: Any
    if kind == 0x26:
        reader.unpack("<B")
        size = reader.unpack("<B")
        value = int.from_bytes(reader.take(size), "little", signed=size > 1) if size else None
        return Parameter(name, {1: "tinyint", 2: "smallint", 4: "int", 8: "bigint", 0: "int"}[size], value)
    if kind == 0x68:
        reader.unpack("<B")
        value = bool(reader.unpack("<B")) if reader.unpack("<B") else None
        return Parameter(name, "bit", value)
    if kind in (0xE7, 0xA5, 0xA7):
        declared = reader.unpack("<H")
        if kind != 0xA5:
            reader.take(5)
        data = _long_value(reader) if declared == 0xFFFF else _short_value(reader)
        if kind == 0xA5:
            return Parameter(name, "varbinary(max)", data)
        codec = "utf-16-le" if kind == 0xE7 else "cp1252"
        return Parameter(name, "nvarchar(max)", None if data is None else data.decode(codec, "surrogatepass"))
    raise ConnectionError(f"parameter {name!r} is of a type that the test server does not know: {kind:#x}")


def _short_value(reader: Reader) -> bytes | None:
    size = reader.unpack("<H")
    return None if size == 0xFFFF else reader.take(size)


def _long_value(reader: Reader) -> bytes | None:
    total = reader.unpack("<Q")
    if total == 0xFFFFFFFFFFFFFFFF:
        return None
    data = bytearray()
    while size := reader.unpack("<L"):
        data += reader.take(size)
    return bytes(data)


@dataclass(frozen=True)
class Login:
    """What a client says of itself in LOGIN7."""

    host: str
    user: str
    password: str
    application: str
    server: str
    library: str
    database: str
    sspi: bytes

    @property
    def integrated(self) -> bool:
        """Whether it asks to be let in by its Windows identity."""
        return bool(self.sspi)


def read_login(payload: bytes) -> Login:
    """LOGIN7, its fields found by their offsets."""

    def field(at: int) -> str:
        offset, length = struct.unpack_from("<HH", payload, at)
        return payload[offset : offset + length * 2].decode("utf-16-le", "surrogatepass")

    offset, length = struct.unpack_from("<HH", payload, 44)
    scrambled = payload[offset : offset + length * 2]
    plain = bytes(((byte ^ 0xA5) << 4 & 0xF0) | ((byte ^ 0xA5) >> 4) for byte in scrambled)
    sspi_at, sspi_size = struct.unpack_from("<HH", payload, 78)
    return Login(
        host=field(36),
        user=field(40),
        password=plain.decode("utf-16-le", "surrogatepass"),
        application=field(48),
        server=field(52),
        library=field(60),
        database=field(68),
        sspi=payload[sspi_at : sspi_at + sspi_size] if sspi_size else b"",
    )


def prelogin_options(payload: bytes) -> dict[int, bytes]:
    """The options of a PRELOGIN message."""
    options: dict[int, bytes] = {}
    at = 0
    while payload[at] != 0xFF:
        token, offset, length = struct.unpack_from(">BHH", payload, at)
        options[token] = payload[offset : offset + length]
        at += 5
    return options


def prelogin_answer(encryption: int, version: tuple[int, int, int]) -> bytes:
    """The server's PRELOGIN."""
    major, minor, build = version
    options = {0: struct.pack(">BBHH", major, minor, build, 0), 1: bytes([encryption]), 2: b"\0", 4: b"\0"}
    at = 5 * len(options) + 1
    head, body = bytearray(), bytearray()
    for token, value in options.items():
        head += struct.pack(">BHH", token, at + len(body), len(value))
        body += value
    return bytes(head) + b"\xff" + bytes(body)
