"""TLS and UNIX sockets, as the program serves them."""

import json
import os
import re
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h2.connection
import pytest

from shimmy.server import tls
from shimmy.server.listen import StartError
from tests import program
from tests.program import LIMIT_SECONDS, Program, inside
from tests.test_start_imports import http2_answer

pytestmark = pytest.mark.program

# Of nobody, for a hundred years: `openssl req -x509 -newkey ec -nodes -subj /CN=localhost` and so on.
FOLDER = Path(__file__).parents[1] / "fakes" / "tls"
CERTIFICATE, KEY = str(FOLDER / "cert.pem"), str(FOLDER / "key.pem")
ENCRYPTED_KEY = """
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAiT6VogFN7f/AICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEM14kBOFT6ISHJ3Q45ZnH6AEgZCC
wPGN1MCF9xRphQ9eLj27btG/AO8N3d0TDJpYMd9JTFR8yA2bZj4KmahGovY91CWO
mwE0vVQokRo6SkEJolh9VRwfBodMowdBGbdIMDn43duYF7Do6Aku/wpGqUOd/BnQ
zbgtO3cASQ3mxJk2FDy/bmq7Ly6jNvjWxYy0ePPBGuPbqgd871IpG3t7uie81vQ=
-----END ENCRYPTED PRIVATE KEY-----
"""
REQUEST = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


@contextmanager
def served(folder: Path, *flags: str) -> Iterator[Program]:
    with program.program(folder, *flags) as running:
        yield running
    assert "Traceback" not in (folder / "stderr.txt").read_text()


def trusting(*protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=CERTIFICATE)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


@contextmanager
def connected(running: Program, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    port = int(running.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_SECONDS) as plain:
        with context.wrap_socket(plain, server_hostname="localhost") as connection:
            yield connection


def everything(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_http_over_tls(tmp_path: Path) -> None:
    with served(tmp_path, "--tls-cert", CERTIFICATE, "--tls-key", KEY) as running:
        assert running.url.startswith("https://127.0.0.1:")
        with connected(running, trusting("http/1.1")) as connection:
            assert connection.selected_alpn_protocol() == "http/1.1"
            connection.sendall(REQUEST)
            assert b'"status":"ok"' in everything(connection)
        if program.IS_FROZEN:
            # Its own, whatever the machine has.
            mapped = Path(f"/proc/{running.process.pid}/maps").read_text()
            found = {line.split()[-1] for line in mapped.splitlines() if re.search(r"/lib(ssl|crypto)\b", line)}
            assert found and all("/native-" in path for path in found)
        with connected(running, trusting("h2")) as connection:
            assert connection.selected_alpn_protocol() == "h2"
            client = h2.connection.H2Connection()
            client.initiate_connection()
            pairs = [(":method", "GET"), (":path", "/health"), (":scheme", "https"), (":authority", "localhost")]
            client.send_headers(1, pairs, end_stream=True)
            assert json.loads(http2_answer(connection, client, 1))["status"] == "ok"
        old = trusting()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with connected(running, old) as connection:
            assert connection.version() == "TLSv1.2" and "GCM" in (connection.cipher() or [""])[0]
        older = trusting()
        older.set_ciphers("ALL:@SECLEVEL=0")
        older.minimum_version, older.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)), connected(running, older):
            pass
        port = int(running.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_SECONDS) as plain:
            plain.sendall(REQUEST)
            assert not everything(plain).startswith(b"HTTP")
        with connected(running, trusting()) as connection:
            connection.sendall(REQUEST)
            assert everything(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("certificate", "key", "reason"),
    [
        (CERTIFICATE, CERTIFICATE, "cannot use the certificate"),
        (KEY, KEY, "cannot use the certificate"),
        (CERTIFICATE, "absent.pem", "cannot read absent.pem: No such file"),
        ("absent.pem", KEY, "cannot read absent.pem: No such file"),
        (os.devnull, KEY, "cannot use the certificate"),
    ],
)
@inside("the context by itself")
def test_what_is_no_certificate(certificate: str, key: str, reason: str) -> None:
    with pytest.raises(StartError, match=reason) as caught:
        tls.server_context(certificate, key)
    assert caught.value.exit_code == 2


@inside("the context by itself")
def test_an_encrypted_key_is_refused_and_nobody_is_asked(tmp_path: Path) -> None:
    encrypted = tmp_path / "key.pem"
    encrypted.write_text(ENCRYPTED_KEY)
    with pytest.raises(StartError, match="is encrypted"):
        tls.server_context(CERTIFICATE, str(encrypted))


def test_one_file_without_the_other(tmp_path: Path) -> None:
    done = program.run("serve", "--bind", "127.0.0.1:0", "--tls-cert", CERTIFICATE)
    assert done.returncode == 2 and "--tls-cert and --tls-key go together" in done.stderr


def test_a_certificate_that_is_absent_is_no_start(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    for flags in (("--tls-cert", absent, "--tls-key", KEY), ("--tls-cert", KEY, "--tls-key", KEY)):
        done = program.run("serve", "--bind", "127.0.0.1:0", *flags)
        assert done.returncode == 2 and "shimmy: cannot " in done.stderr and "Traceback" not in done.stderr


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with served(tmp_path, "--bind", f"unix:{path}") as running:
        assert running.url == f"unix:{path}"
        for host, extra, status in [
            (b"localhost", b"", b"200"),
            (b"models.example", b"", b"200"),
            (b"models.example", b"origin: https://evil.example\r\n", b"403"),
            (b"models.example", b"origin: http://models.example\r\n", b"200"),
        ]:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                connection.sendall(b"GET /health HTTP/1.1\r\nhost: %s\r\n%sconnection: close\r\n\r\n" % (host, extra))
                assert everything(connection).startswith(b"HTTP/1.1 " + status)
    assert not path.exists()


def asked(running: Program, key: str) -> int:
    port = int(running.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_SECONDS) as connection:
        connection.sendall(
            f"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx-api-key: {key}\r\nconnection: close\r\n\r\n".encode()
        )
        return int(everything(connection).split()[1])


def test_keys_are_read_again_when_told(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.touch(0o600)
    keys.write_text("old name=one\nboth")
    with served(tmp_path, "--api-keys-file", str(keys), "--api-key", "flag") as running:
        assert [asked(running, key) for key in ("old", "both", "new", "flag")] == [200, 200, 401, 200]

        def reread(content: str, said: str) -> None:
            keys.write_text(content)
            running.process.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + LIMIT_SECONDS
            while said not in (tmp_path / "stderr.txt").read_text():
                assert time.monotonic() < deadline
                time.sleep(0.02)

        reread("both\nnew", "3 API keys are valid now")
        assert [asked(running, key) for key in ("old", "both", "new", "flag")] == [401, 200, 200, 200]
        reread("both wrong", "the API keys stay as they were")
        assert [asked(running, key) for key in ("old", "both", "new", "flag")] == [401, 200, 200, 200]
    log = (tmp_path / "stderr.txt").read_text()
    assert "key=one" in log and not any(f"{key} " in log for key in ("old", "both", "new", "flag"))


def test_a_keys_file_that_cannot_be_used_is_no_start(tmp_path: Path) -> None:
    done = program.run("serve", "--bind", "127.0.0.1:0", "--api-keys-file", str(tmp_path / "absent"))
    assert done.returncode == 2 and "absent: No such file" in done.stderr
