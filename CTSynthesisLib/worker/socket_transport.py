"""A worker on another computer, reached over TLS; see ``remote`` for its end. The rest of the client cannot tell the difference."""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
import threading
import time

import numpy as np

from ..errors import SynthesisFailed
from . import frames, protocol
from .frames import Access

CONNECT_SECONDS = 8.0
_END = object()


class SocketTransport:
    """Messages and arrays through one connection; a thread connects, sends and receives, so nobody waits."""

    def __init__(self, access: Access):
        self.access = access
        self._outwards: queue.SimpleQueue | None = None
        self._inwards: queue.SimpleQueue = queue.SimpleQueue()
        self._arrays: dict[str, np.ndarray] = {}

    @property
    def where(self) -> str:
        return f"{self.access.host}:{self.access.port}"

    def open(self):
        if self._outwards is None:
            self._outwards, self._inwards = queue.SimpleQueue(), queue.SimpleQueue()
            self._arrays = {}
            threading.Thread(target=self._converse, args=(self._outwards, self._inwards, self._arrays), daemon=True).start()

    def send(self, message):
        if self._outwards is None:
            raise ConnectionError("The connection was closed.")
        self._outwards.put(message)

    def receive(self):
        with contextlib.suppress(queue.Empty):
            message = self._inwards.get_nowait()
            if isinstance(message, ConnectionError):
                raise message
            return message
        return None

    def put(self, name, array):
        self.send((name, np.array(array)))  # a copy: it is sent later

    def take(self, name):
        return self._arrays.pop(name)

    def drop(self, name):
        self._arrays.pop(name, None)

    def close(self):
        if self._outwards is not None:
            self._outwards.put(_END)
        self._outwards = None

    def _converse(self, outwards, inwards, arrays):
        """Runs in its own thread until either side ends."""
        try:
            with connected(self.access, "greet") as connection:
                while True:
                    while (received := connection.receive()) is not None:
                        if not isinstance(received, dict):
                            arrays[received[0]] = received[1]
                        elif received["say"] == "refused":
                            raise SynthesisFailed(received["text"])
                        else:
                            inwards.put(received)
                    with contextlib.suppress(queue.Empty):
                        if (item := outwards.get_nowait()) is _END:
                            return
                        connection.send(item) if isinstance(item, dict) else connection.send_array(*item)
                        continue
                    connection.wait(0.005)
        except SynthesisFailed as error:
            inwards.put(ConnectionError(str(error)))
        except (OSError, ValueError) as error:
            inwards.put(error if isinstance(error, frames.Refused) else ConnectionError(_lost(error)))


@contextlib.contextmanager
def connected(access: Access, say: str):
    """A TLS connection over which the token has been shown; SynthesisFailed in words if there is none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # this very certificate is asked for, whatever name or address its computer has
    try:
        context.load_verify_locations(cadata=access.certificate)
        with socket.create_connection((access.host, access.port), CONNECT_SECONDS) as plain, context.wrap_socket(plain) as stream:
            connection = frames.Connection(stream)
            connection.send({**protocol.hello(), "say": say, "token": access.token})
            yield connection
    except ssl.SSLCertVerificationError as error:
        raise SynthesisFailed(f"{access.host} is not the worker that wrote the access file; copy its access file again.") from error
    except (TimeoutError, ConnectionRefusedError, socket.gaierror) as error:
        raise SynthesisFailed(
            f"No worker answers at {access.host}:{access.port}; start it there (python -m CTSynthesisLib.worker.remote) and check"
            " the firewall."
        ) from error


def probe(access: Access) -> str:
    """What "Test connection" shows: one sentence of success.

    Raises
    ------
    SynthesisFailed
        One sentence on why there is no connection.
    """
    try:
        with connected(access, "probe") as connection:
            deadline = time.monotonic() + CONNECT_SECONDS
            while (answer := connection.receive()) is None:
                connection.wait(0.1)
                if time.monotonic() > deadline:
                    raise TimeoutError("no answer")
        text = answer["text"]
    except OSError as error:
        raise SynthesisFailed(_lost(error)) from error
    if not text.startswith("Connected"):
        raise SynthesisFailed(text)
    theirs, ours = text.removeprefix("Connected: CTSynthesis ").rstrip("."), protocol.hello()["version"]
    if theirs != ours:
        raise SynthesisFailed(f"The worker is version {theirs}, but this is {ours}; install the same version of both and restart.")
    return text


def _lost(error) -> str:
    return f"The connection to the remote worker was lost ({error}); check the network and click Generate again."
