"""Against real programs over real sockets: openssl, gnutls, curl, nginx. A program that is missing makes its tests skip."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sslconnector import ServerContext
from sslconnector.asyncio import StreamReader, StreamWriter, create_server, open_connection, start_server
from sslconnector.sync import wrap_socket

from .helpers import PKI, VERSIONS, pem_chain, pem_key
from .strangers import serving

_TIMEOUT = 20


def _need(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed (CI installs it)")
    return found


@pytest.fixture(scope="module")
def files(pki: PKI, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    (folder / "ca.pem").write_bytes(pki.ca_pem)
    for name, identity in (("server", pki.server), ("client", pki.client)):
        (folder / f"{name}.pem").write_bytes(pem_chain(identity))
        (folder / f"{name}.key").write_bytes(pem_key(identity))
    return folder


_PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nConnection: close\r\n\r\n" + b"h" * 100_000


class _Echo(asyncio.Protocol):
    """Echoes; to a GET it answers with a page, and closes."""

    open: ClassVar[set[Any]] = set()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.open.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET "):
            self.transport.write(_PAGE)
            self.transport.close()
        else:
            self.transport.write(data)


async def _stream_echo(reader: StreamReader, writer: StreamWriter) -> None:
    _Echo.open.add(writer.transport)
    try:
        while data := await reader.read(65536):
            writer.write(_PAGE if data.startswith(b"GET ") else data)
            await writer.drain()
            if data.startswith(b"GET "):
                break
        writer.close()
        await writer.wait_closed()
    except ConnectionError:
        writer.transport.abort()
    finally:
        _Echo.open.discard(writer.transport)


def _socket_echo(sock: socket.socket, context: ServerContext) -> None:
    try:
        with wrap_socket(sock, context) as tls:
            while data := tls.recv():
                tls.sendall(_PAGE if data.startswith(b"GET ") else data)
                if data.startswith(b"GET "):
                    return
    except OSError:
        pass


@pytest.fixture(params=["protocol", "streams", "sync"])
def serve(request: pytest.FixtureRequest) -> Iterator[Callable[[ServerContext], int]]:
    """Our echo server, in each way to write it, in a thread; gives the port."""
    if request.param == "sync":
        with ExitStack() as stack:
            yield lambda context: stack.enter_context(serving(lambda sock: _socket_echo(sock, context)))
        return
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    servers: list[asyncio.Server] = []

    def start(context: ServerContext) -> int:
        if request.param == "streams":
            starting = start_server(_stream_echo, "127.0.0.1", 0, ssl=context)
        else:
            starting = create_server(_Echo, "127.0.0.1", 0, ssl=context)
        server = asyncio.run_coroutine_threadsafe(starting, loop).result(10)
        servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    yield start

    async def stop() -> None:
        for server in servers:
            server.close()
        for transport in list(_Echo.open):
            transport.abort()
        while _Echo.open:
            await asyncio.sleep(0.01)

    asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def _talk(command: list[str], sent: bytes, expected: bytes) -> str:
    """Writes to the program's standard input until ``expected`` came back, then ends it."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        killer = threading.Timer(_TIMEOUT, process.kill)
        killer.start()
        try:
            process.stdin.write(sent)
            process.stdin.flush()
            got = b""
            while expected not in got:
                data = os.read(process.stdout.fileno(), 65536)
                if not data:
                    break
                got += data
            process.stdin.close()
            got += process.stdout.read()
        finally:
            killer.cancel()
            process.kill()
    assert expected in got, got[-2000:]
    return got.decode(errors="replace")


class _Program:
    """A server program on a free port."""

    def __init__(self, command: list[str], port: int) -> None:
        self.port = port
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                if time.monotonic() > end or self.process.poll() is not None:
                    self.stop()
                    raise
                time.sleep(0.02)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def __enter__(self) -> _Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ask_streams(pki: PKI, port: int, sent: bytes, expected: bytes, **options: Any) -> dict[str, Any]:
    """Our client: sends, waits for the answer, closes."""

    async def main() -> dict[str, Any]:
        context = pki.client_context(**options)
        async with asyncio.timeout(_TIMEOUT):
            reader, writer = await open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
            writer.write(sent)
            got = b""
            while expected not in got:
                data = await reader.read(65536)
                assert data, got
                got += data
            connector = writer.get_extra_info("connector")
            writer.close()
            try:
                await writer.wait_closed()
            except ConnectionError:
                pass  # not every server says good-bye
            return {"version": connector.version, "got": got}

    return asyncio.run(main())


def _ask_sync(pki: PKI, port: int, sent: bytes, expected: bytes, **options: Any) -> dict[str, Any]:
    """The same with a blocking socket."""
    sock = socket.create_connection(("127.0.0.1", port), _TIMEOUT)
    with wrap_socket(sock, pki.client_context(**options), server_hostname="localhost") as tls:
        tls.sendall(sent)
        got = b""
        while expected not in got:
            data = tls.recv()
            assert data, got
            got += data
        return {"version": tls.version(), "got": got}


@pytest.fixture(params=[_ask_streams, _ask_sync])
def ask(request: pytest.FixtureRequest) -> Any:
    """Our client, in two ways to write it."""
    return request.param


# -- openssl ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", list(VERSIONS))
def test_openssl_s_client(pki: PKI, serve: Any, files: Path, version: str) -> None:
    flag = "-tls1_2" if version == "TLSv1.2" else "-tls1_3"
    port = serve(pki.server_context(client_certificates="required", trust=pki.trust))
    certificate = ["-cert", str(files / "client.pem"), "-key", str(files / "client.key")]
    common = [_need("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", str(files / "ca.pem"), "-verify_return_error"]
    name = ["-servername", "localhost", "-verify_hostname", "localhost"]
    output = _talk([*common, *name, flag, *certificate], b"hello from openssl\n", b"hello from openssl")
    assert "Verify return code: 0 (ok)" in output
    refused = subprocess.run([*common, flag, "-ign_eof"], input=b"x\n", capture_output=True, timeout=_TIMEOUT, check=False)
    assert b"alert" in refused.stderr
    assert b"certificate required" in refused.stderr or b"handshake failure" in refused.stderr


@pytest.mark.parametrize("version", list(VERSIONS))
def test_openssl_s_client_resumes(pki: PKI, serve: Any, files: Path, tmp_path: Path, version: str) -> None:
    flag = "-tls1_2" if version == "TLSv1.2" else "-tls1_3"
    port = serve(pki.server_context())
    common = [_need("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", str(files / "ca.pem"), flag]
    _talk([*common, "-sess_out", str(tmp_path / "session")], b"first\n", b"first")
    output = _talk([*common, "-sess_in", str(tmp_path / "session")], b"second\n", b"second")
    assert "Reused, " + version in output


@pytest.mark.parametrize("version", list(VERSIONS))
def test_openssl_s_server(pki: PKI, ask: Any, files: Path, version: str) -> None:
    port = _free_port()
    command = [_need("openssl"), "s_server", "-accept", f"127.0.0.1:{port}", "-cert", str(files / "server.pem")]
    command += ["-key", str(files / "server.key"), "-rev", "-CAfile", str(files / "ca.pem"), "-Verify", "1", "-verify_return_error"]
    with _Program(command, port):
        facts = ask(pki, port, b"stressed\n", b"desserts\n", identity=pki.client, **VERSIONS[version])
        assert facts["version"] == version


def test_openssl_speaks_plain_text(pki: PKI, serve: Any) -> None:
    """A client that does not speak TLS gets the door, not a hang."""
    port = serve(pki.server_context())
    with socket.create_connection(("127.0.0.1", port), _TIMEOUT) as plain:
        plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert plain.recv(100) == b""


# -- gnutls ----------------------------------------------------------------------------------------------------------------------------


def _priority(version: str) -> str:
    return "NORMAL:-VERS-ALL:+VERS-" + ("TLS1.2" if version == "TLSv1.2" else "TLS1.3")


@pytest.mark.parametrize("version", list(VERSIONS))
def test_gnutls_cli(pki: PKI, serve: Any, files: Path, version: str) -> None:
    port = serve(pki.server_context(client_certificates="required", trust=pki.trust))
    command = [_need("gnutls-cli"), "--x509cafile", str(files / "ca.pem"), "--x509certfile", str(files / "client.pem")]
    command += ["--x509keyfile", str(files / "client.key"), "--priority", _priority(version), "--port", str(port), "localhost"]
    output = _talk(command, b"hello from gnutls\n", b"\nhello from gnutls")
    assert re.search(r"Description: \(" + version.replace("v", ""), output)


@pytest.mark.parametrize("version", list(VERSIONS))
def test_gnutls_serv(pki: PKI, ask: Any, files: Path, version: str) -> None:
    port = _free_port()
    command = [_need("gnutls-serv"), "--echo", "--port", str(port), "--x509certfile", str(files / "server.pem")]
    command += ["--x509keyfile", str(files / "server.key"), "--priority", _priority(version), "--quiet"]
    command += ["--x509cafile", str(files / "ca.pem"), "--require-client-cert"]
    with _Program(command, port):
        facts = ask(pki, port, b"hello\n", b"hello", identity=pki.client)
        assert facts["version"] == version


# -- curl ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", list(VERSIONS))
def test_curl(pki: PKI, serve: Any, files: Path, version: str) -> None:
    port = serve(pki.server_context())
    number = version.removeprefix("TLSv")
    command = [_need("curl"), "--silent", "--show-error", "--http1.1", "--cacert", str(files / "ca.pem")]
    command += ["--tlsv" + number, "--tls-max", number, f"https://localhost:{port}/"]
    done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"h" * 100_000
    command[command.index("--cacert") + 1] = str(files / "client.pem")
    refused = subprocess.run(command, capture_output=True, timeout=_TIMEOUT, check=False)
    assert refused.returncode == 60


# -- nginx -----------------------------------------------------------------------------------------------------------------------------

_NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 100; }}
http {{
    access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:{port} ssl; server_name localhost; root {folder};
        ssl_certificate {files}/server.pem; ssl_certificate_key {files}/server.key; ssl_protocols {version};
        ssl_client_certificate {files}/ca.pem; ssl_verify_client on;
    }}
}}
"""


@pytest.mark.parametrize("version", list(VERSIONS))
def test_nginx(pki: PKI, ask: Any, files: Path, tmp_path: Path, version: str) -> None:
    """Our client gets a large file, and is turned away without a certificate."""
    program = _need("nginx")
    port = _free_port()
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_bytes(b"n" * 3_000_000 + b"END")
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(_NGINX.format(folder=tmp_path, files=files, port=port, version=version))
    request = b"GET /file HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with _Program([program, "-c", str(configuration), "-p", str(tmp_path)], port):
        answer = ask(pki, port, request, b"END", identity=pki.client)
        assert answer["version"] == version
        assert answer["got"].startswith(b"HTTP/1.1 200 OK")
        assert answer["got"].endswith(b"n" * 3_000_000 + b"END")
        assert b"400" in ask(pki, port, request, b"</html>")["got"]


# -- STARTTLS --------------------------------------------------------------------------------------------------------------------------


async def _smtp(reader: StreamReader, writer: StreamWriter, context: ServerContext) -> None:
    writer.write(b"220 mail.example ESMTP\r\n")
    assert (await reader.readline()).startswith(b"EHLO")
    writer.write(b"250-mail.example\r\n250 STARTTLS\r\n")
    assert await reader.readline() == b"STARTTLS\r\n"
    writer.write(b"220 go ahead\r\n")
    await writer.start_tls(context)
    _Echo.open.add(writer.transport)
    writer.write(b"secret: " + await reader.readline())
    await reader.read()
    writer.close()
    _Echo.open.discard(writer.transport)


def test_openssl_starttls(pki: PKI, files: Path) -> None:
    """openssl upgrades a connection to our stream server in mid-stream."""
    program = _need("openssl")
    context = pki.server_context()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    starting = start_server(lambda reader, writer: _smtp(reader, writer, context), "127.0.0.1", 0)
    server = asyncio.run_coroutine_threadsafe(starting, loop).result(10)
    port = server.sockets[0].getsockname()[1]
    command = [program, "s_client", "-starttls", "smtp", "-connect", f"127.0.0.1:{port}", "-CAfile", str(files / "ca.pem")]
    output = _talk([*command, "-verify_return_error", "-servername", "localhost"], b"hello\n", b"secret: hello")
    assert "Verify return code: 0 (ok)" in output
    loop.call_soon_threadsafe(server.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
