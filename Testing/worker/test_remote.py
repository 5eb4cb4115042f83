"""The worker on another computer: here both ends on one, over real TLS. Who has no token gets nothing."""

import json
import shutil
import socket
import ssl
import struct
import time
from dataclasses import replace

import numpy as np
import pytest

from CTSynthesisLib.errors import SynthesisFailed, UnusableInput
from CTSynthesisLib.synthesis.request import Request
from CTSynthesisLib.worker import Cancelled, Progress, Worker, frames, protocol
from CTSynthesisLib.worker.remote import Server
from CTSynthesisLib.worker.socket_transport import SocketTransport, connected, probe
from Testing.worker import standin_engine
from Testing.worker.test_worker import wait_for

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here to make a certificate with")


@pytest.fixture(scope="module")
def a_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("remote")


@pytest.fixture
def a_server_with(a_folder):
    servers = []

    def make(engine="draw", **arguments):
        servers.append(Server(a_folder, port=0, engine=f"Testing.worker.standin_engine:{engine}", **arguments))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


def test_the_result_is_that_of_a_direct_call(a_server_with, a_labelmap):
    stages = []
    with Worker(SocketTransport(a_server_with().access)) as worker:
        for seed in (3, 4):  # the connection stays
            result = worker.generate(a_labelmap, Request(seed=seed), {"heart": "liver"}, progress=lambda _, stage: stages.append(stage))
            direct = standin_engine.draw(a_labelmap, Request(seed=seed), names={"heart": "liver"}, progress=lambda *_: None)
            assert np.array_equal(result.volume.array, direct.volume.array)
            assert result.understood == direct.understood and result.volume.metadata == direct.volume.metadata
    assert stages


def test_cancel_reaches_it_and_leaving_ends_its_child(a_server_with, a_labelmap, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Worker(SocketTransport(a_server_with("obey").access)) as worker:
        worker.submit(a_labelmap)
        while wait_for(worker, Progress).stage != "Working":
            pass
        worker.cancel()
        with pytest.raises(Cancelled):
            wait_for(worker, str)
        assert list(tmp_path.iterdir())
    deadline = time.monotonic() + 5
    while list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(tmp_path.iterdir()) == []  # the child's folder goes with the child


def test_errors_keep_their_class_and_sentence(a_server_with, a_labelmap):
    with Worker(SocketTransport(a_server_with("refuse").access)) as worker, pytest.raises(UnusableInput, match="not to my liking"):
        worker.generate(a_labelmap)
    with Worker(SocketTransport(a_server_with("crash").access)) as worker, pytest.raises(SynthesisFailed, match="exit code 11"):
        worker.generate(a_labelmap)


def test_a_wrong_token_is_refused_in_words(a_server_with, a_labelmap):
    stranger = replace(a_server_with().access, token="guessed")
    with Worker(SocketTransport(stranger)) as worker, pytest.raises(SynthesisFailed, match="refused the token"):
        worker.generate(a_labelmap)
    with pytest.raises(SynthesisFailed, match="refused the token"):
        probe(stranger)


def test_another_certificate_is_not_trusted(a_server_with, tmp_path):
    other = Server(tmp_path, port=0)
    try:
        with pytest.raises(SynthesisFailed, match="is not the worker that wrote the access file"):
            probe(replace(a_server_with().access, certificate=other.access.certificate))
    finally:
        other.close()


def test_the_connection_can_be_tried_out(a_server_with, monkeypatch):
    access = a_server_with().access
    assert probe(access).startswith("Connected: CTSynthesis ")
    with monkeypatch.context() as patch:
        patch.setattr(protocol, "hello", lambda: {"say": "hello", "protocol": 2, "version": "0.0.9"})
        server = a_server_with()
        real = probe(server.access)
    assert "0.0.9" in real
    free = socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    with pytest.raises(SynthesisFailed, match="No worker answers at"):
        probe(replace(access, port=port))


def test_another_version_is_refused_in_words(a_server_with, a_labelmap, monkeypatch):
    worker = Worker(SocketTransport(a_server_with().access))
    monkeypatch.setattr("CTSynthesisLib.worker.protocol.__version__", "0.0.9")
    with worker, pytest.raises(SynthesisFailed, match="but this is 0.0.9; install the same version"):
        worker.generate(a_labelmap)


def answers(connection, seconds=10):
    """What comes until the other side closes the connection."""
    said, deadline = [], time.monotonic() + seconds
    with pytest.raises(ConnectionError):
        while time.monotonic() < deadline:
            said.append(connection.receive())
            connection.wait(0.05)
    return [message for message in said if message is not None]


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">I", frames.LARGEST_MESSAGE + 1),
        struct.pack(">I", 9) + b"not json!",
        *(
            struct.pack(">I", len(header)) + header
            for header in (
                json.dumps({"say": "array", "name": "labelmap-1", "dtype": "uint8", "shape": [10**6, 10**6], "bytes": 10}).encode(),
                json.dumps({"say": "array", "name": "../../evil", "dtype": "uint8", "shape": [1], "bytes": 9}).encode(),
                json.dumps({"say": "array", "name": "labelmap-1", "dtype": "object", "shape": [1], "bytes": 9}).encode(),
            )
        ),
    ],
)
def test_what_is_too_large_or_malformed_ends_the_connection(a_server_with, data):
    with connected(a_server_with().access, "greet") as connection:
        connection._write(data)
        assert any(message["say"] == "refused" for message in answers(connection))


def test_a_greeting_too_long_is_refused_before_it_is_read(a_server_with):
    access = a_server_with().access
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=access.certificate)
    with socket.create_connection((access.host, access.port), 5) as plain, context.wrap_socket(plain) as stream:
        stream.sendall(struct.pack(">I", 1_000_000))
        (answer,) = answers(frames.Connection(stream))
    assert "no more than 4000" in answer["text"]


def test_the_access_file_is_for_its_owner_only_and_stays_the_same(a_server_with, a_labelmap):
    server = a_server_with()
    assert server.access_file.stat().st_mode & 0o077 == 0
    assert frames.Access.read(server.access_file) == server.access and a_server_with().access.token == server.access.token
    assert server.access.host == "127.0.0.1"
    with pytest.raises(UnusableInput, match="no access file"):
        frames.Access.read(server.access_file.with_name("certificate.pem"))


def test_no_name_of_a_file_or_patient_travels(a_labelmap):
    labelmap = replace(a_labelmap, metadata={"Name": "Doe^Jane"})
    assert "Jane" not in json.dumps(protocol.pack_labelmap(labelmap, "labelmap-1"))
