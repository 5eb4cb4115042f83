"""A worker for another computer: ``python -m CTSynthesisLib.worker.remote`` on the one with the graphics card.

It speaks the protocol of the local worker over TLS and runs one child for each connection. Who connects must show the token that the
worker has written into its access file, and must run the same version. Without ``--host`` it can be reached from its own computer only
(for example through ``ssh -L 18765:127.0.0.1:18765``).
"""

from __future__ import annotations

import argparse
import contextlib
import hmac
import json
import os
import secrets
import socket
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

from ..errors import SynthesisFailed, UnusableInput
from . import frames, protocol
from .transport import ENGINE, PipeTransport

GREETING_SECONDS = 10.0
AT_ONCE = 4  # connections


class Server:
    """Accepts connections in the background until it is closed.

    Parameters
    ----------
    folder : path
        Where the certificate, its key and the access file lie; they are made if they are missing.
    """

    def __init__(self, folder, host="127.0.0.1", port=frames.PORT, engine=ENGINE, largest_array=frames.LARGEST_ARRAY):
        self.engine, self.largest_array = engine, largest_array
        folder = Path(folder)
        certificate, key = _certificate(folder)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(certificate, key)
        self._context = context
        try:
            self._socket = socket.create_server((host, port))
        except OSError as error:
            raise UnusableInput(f"Port {port} of {host} cannot be used ({error.strerror}); choose another one with --port.") from error
        self.access_file = folder / "access.json"
        token = frames.Access.read(self.access_file).token if self.access_file.exists() else secrets.token_urlsafe(32)
        self.access = frames.Access(host, self._socket.getsockname()[1], token, certificate.read_text())
        _write_secret(self.access_file, json.dumps(asdict(self.access), indent=1))
        self._places = threading.BoundedSemaphore(AT_ONCE)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._socket.close()

    def _accept(self):
        while True:
            try:
                plain, _ = self._socket.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain):
        plain.settimeout(GREETING_SECONDS)
        with contextlib.suppress(OSError), contextlib.closing(plain), self._context.wrap_socket(plain, server_side=True) as stream:
            connection = frames.Connection(stream, frames.LARGEST_GREETING, 0)
            try:
                refusal = self._refusal(_greeting(connection))
            except frames.Refused as error:
                refusal = str(error)
            if refusal or not self._places.acquire(blocking=False):
                connection.send({"say": "refused", "text": refusal or "The worker serves others already; try again later."})
                return
            connection.largest_message, connection.largest_array = frames.LARGEST_MESSAGE, self.largest_array
            try:
                self._relay(connection)
            finally:
                self._places.release()

    def _refusal(self, greeting) -> str:
        if not hmac.compare_digest(str(greeting.get("token", "")).encode(), self.access.token.encode()):
            time.sleep(0.5)  # who guesses shall have to wait
            return "The worker refused the token; copy its access file again."
        if greeting.get("say") == "probe":
            return f"Connected: CTSynthesis {protocol.hello()['version']}."
        return ""

    def _relay(self, connection):
        """Between the connection and a child, until either has gone."""
        child = PipeTransport(engine=self.engine)
        child.open()
        try:
            while True:
                while (received := connection.receive()) is not None:
                    if isinstance(received, dict):
                        child.send(received)
                    else:
                        child.put(*received)
                if (message := child.receive()) is None:
                    connection.wait(0.005)
                    continue
                for name in protocol.arrays_in(message):
                    connection.send_array(name, child.take(name))
                connection.send(message)
        except ConnectionError as error:  # the child's end is told; that of the connection is not, for nobody listens
            with contextlib.suppress(OSError):
                connection.send({"say": "refused", "text": str(error)})
        finally:
            child.close()


def _greeting(connection) -> dict:
    deadline = time.monotonic() + GREETING_SECONDS
    while (greeting := connection.receive()) is None:
        if time.monotonic() > deadline:
            raise frames.Refused("No greeting came in time; the connection was closed.")
        connection.wait(0.1)
    return greeting if isinstance(greeting, dict) else {}


def _certificate(folder: Path):
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    if not (certificate.exists() and key.exists()):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-subj", "/CN=CTSynthesis worker",
                   "-keyout", str(key), "-out", str(certificate)]  # fmt: skip
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SynthesisFailed(
                f"The certificate could not be made, because openssl is missing or failed; put certificate.pem and key.pem into {folder}."
            ) from error
        key.chmod(0o600)
    return certificate, key


def _write_secret(path: Path, text: str):
    part = path.with_name(path.name + ".part")
    part.touch(mode=0o600)
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m CTSynthesisLib.worker.remote", description="Generates volumes for another computer.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this computer only)")
    parser.add_argument("--port", type=int, default=frames.PORT)
    parser.add_argument("--folder", type=Path, default=Path.home() / ".ctsynthesis", help="for certificate, key and access file")
    options = parser.parse_args(arguments)
    try:
        server = Server(options.folder, options.host, options.port)
    except (UnusableInput, SynthesisFailed) as error:
        sys.exit(str(error))
    print(f"Listening on {options.host}:{server.access.port}. Copy {server.access_file} to the other computer and choose it in the panel")
    print("under Advanced; it holds the token, so treat it like a password. End with Ctrl+C.", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
    server.close()


if __name__ == "__main__":
    main()
