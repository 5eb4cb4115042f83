"""How messages and arrays travel over a socket: a length, a line of JSON, and for an array its bytes, compressed.

Nothing is taken from the other side that is larger than was agreed, and no array may be named but as this library names them.
"""

from __future__ import annotations

import json
import math
import re
import select
import ssl
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UnusableInput

LARGEST_MESSAGE = 4_000_000  # bytes of JSON
LARGEST_GREETING = 4_000  # before the other side has shown its token
LARGEST_ARRAY = 4_000_000_000  # bytes
PORT = 18765
NAME = re.compile(r"[a-z]{1,16}-\d{1,9}")
KINDS = {"int16", "uint8", "uint16", "int32", "float32"}


class Refused(ConnectionError):
    """The other side has sent what it must not; the sentence is for the user."""


@dataclass(frozen=True)
class Access:
    """What a client needs to reach a remote worker; the worker writes it as one small file, which is as secret as a password."""

    host: str
    port: int
    token: str
    certificate: str  # PEM; the client trusts this one and no other

    @classmethod
    def read(cls, path) -> Access:
        try:
            return cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UnusableInput(f"'{path}' is no access file of a remote worker; copy the one that the worker has written.") from error


class Connection:
    """Both directions of a TLS stream in one thread: OpenSSL allows no more. Nothing here waits but :meth:`wait` and :meth:`send`.

    ``largest_message`` and ``largest_array`` (bytes) may be changed once the other side is trusted.
    """

    def __init__(self, stream, largest_message=LARGEST_MESSAGE, largest_array=LARGEST_ARRAY):
        stream.setblocking(False)
        self._stream = stream
        self.largest_message, self.largest_array = largest_message, largest_array
        self._buffer = bytearray()
        self._array: tuple | None = None  # announced: (name, kind, shape, bytes that come, bytes that they are)
        self._gone = False

    def send(self, message: dict) -> None:
        data = json.dumps(message).encode()
        self._write(struct.pack(">I", len(data)) + data)

    def send_array(self, name: str, array: np.ndarray) -> None:
        array = np.ascontiguousarray(array)
        packed = zlib.compress(array.tobytes(), 1)
        self.send({"say": "array", "name": name, "dtype": array.dtype.name, "shape": array.shape, "bytes": len(packed)})
        self._write(packed)

    def receive(self):
        """The next message, or ``(name, array)``, or None if none has come completely.

        Raises
        ------
        ConnectionError
            If the other side has gone, or :class:`Refused` if what it sends is too large or malformed.
        """
        self._read()
        while True:
            if self._array is not None:
                return self._take_array()
            if len(self._buffer) < 4:
                break
            (length,) = struct.unpack(">I", self._buffer[:4])
            if length > self.largest_message:
                raise Refused(
                    f"A message of {length} bytes came, and no more than {self.largest_message} are taken; the connection was closed."
                )
            if len(self._buffer) < 4 + length:
                break
            text = bytes(self._buffer[4 : 4 + length])
            del self._buffer[: 4 + length]
            try:
                message = json.loads(text)
                if message["say"] != "array":
                    return message
                self._array = self._announced(message)
            except (ValueError, KeyError, TypeError) as error:
                raise Refused("A message came that cannot be understood; the connection was closed.") from error
        if self._gone:
            raise ConnectionError("the other side has closed the connection")
        return None

    def wait(self, seconds: float) -> None:
        """Until something comes, at most so long."""
        if not self._stream.pending():
            select.select([self._stream], [], [], seconds)

    def _announced(self, message):
        size = math.prod(message["shape"]) * np.dtype(message["dtype"]).itemsize
        if not NAME.fullmatch(message["name"]) or message["dtype"] not in KINDS or min(message["shape"], default=0) < 0:
            raise Refused("An array came that has no proper name or kind; the connection was closed.")
        if size > self.largest_array or message["bytes"] > size + size // 100 + 1000:
            raise Refused(
                f"An array of {size / 1e9:.1f} GB came, and no more than {self.largest_array / 1e9:.1f} GB are taken; crop the volume."
            )
        return message["name"], message["dtype"], message["shape"], int(message["bytes"]), size

    def _take_array(self):
        name, kind, shape, packed, size = self._array
        if len(self._buffer) < packed:
            if self._gone:
                raise ConnectionError("the other side has closed the connection")
            return None
        inflater = zlib.decompressobj()
        try:
            data = inflater.decompress(bytes(self._buffer[:packed]), size + 1)
        except zlib.error as error:
            raise Refused("An array came damaged; the connection was closed.") from error
        if len(data) != size:
            raise Refused("An array came that is not as large as announced; the connection was closed.")
        del self._buffer[:packed]
        self._array = None
        return name, np.frombuffer(data, kind).reshape(shape).copy()

    def _read(self):
        try:
            while part := self._stream.recv(1 << 18):
                self._buffer += part
            self._gone = True
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:
            self._gone = True

    def _write(self, data: bytes):
        view = memoryview(data)
        while view:
            try:
                view = view[self._stream.send(view[: 1 << 18]) :]
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                select.select([self._stream], [self._stream], [], 1.0)
                self._read()  # the other side may be writing as well
                if self._gone:
                    raise ConnectionError("the other side has closed the connection") from None
