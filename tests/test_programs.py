"""Real programs on the ``ssl`` look-alike, against peers that are not ours: each is a file of ``examples`` that a user can copy."""

from __future__ import annotations

import asyncio
import glob
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .helpers import PKI, pem_chain, pem_key

_EXAMPLES = Path(__file__).parent.parent / "examples"
_TIMEOUT = 30


def _need(program: str) -> str:
    found = shutil.which(program) or next(iter(sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{program}"))), None)
    if found is None:
        pytest.skip(f"{program} is not installed (CI installs it)")
    return found


@pytest.fixture(scope="module")
def files(pki: PKI) -> Iterator[Path]:
    """cert.pem, key.pem, ca.pem and a page, where the servers' own users can read them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for file, data in (("cert.pem", pem_chain(pki.server)), ("key.pem", pem_key(pki.server)), ("ca.pem", pki.ca_pem)):
            (folder / file).write_bytes(data)
        (folder / "page").write_bytes(b"h" * 100_000)
        yield folder


def _free_port() -> int:
    """Below those that the system gives to clients: one of theirs would take it before the server does."""
    while True:
        try:
            with socket.create_server(("127.0.0.1", random.SystemRandom().randrange(12000, 32000))) as sock:
                return int(sock.getsockname()[1])
        except OSError:
            continue


@contextmanager
def _running(command: list[str], port: int, **options: Any) -> Iterator[None]:
    """A server, once it accepts connections."""
    options |= {"stdin": subprocess.DEVNULL, "start_new_session": True}
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdout=log, stderr=log, **options) as process:
        try:
            end = time.monotonic() + _TIMEOUT
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > end:
                        log.seek(0)
                        pytest.fail(f"{command} does not listen:\n{log.read().decode()}")
                    time.sleep(0.05)
            yield
        finally:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _example(name: str, *arguments: object) -> list[str]:
    return [sys.executable, str(_EXAMPLES / name), *map(str, arguments)]


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("server", ["uvicorn_server", "hypercorn_server", "aiohttp_server", "twisted_web"])
def test_servers_answer_curl_and_httpx(files: Path, server: str) -> None:
    curl = _need("curl")
    import httpx

    port = _free_port()
    url = f"https://localhost:{port}/"
    with _running(_example(f"{server}.py", files / "cert.pem", files / "key.pem", port), port):
        for version in ("--tls-max 1.2", "--tlsv1.3"):
            assert "hello over" in _run([curl, "-sSf", *version.split(), "--cacert", str(files / "ca.pem"), url])
        # A stranger: httpx over Python's own ssl.
        with httpx.Client(verify=ssl.create_default_context(cafile=str(files / "ca.pem")), http2=True) as client:
            for _ in range(3):
                answer = client.get(url)
                assert answer.text.startswith("hello over")
            if server == "hypercorn_server":
                assert (answer.http_version, answer.text) == ("HTTP/2", "hello over HTTP/2")
                assert "HTTP/2" in _run([curl, "-sS", "--http2", "--cacert", str(files / "ca.pem"), url])
        # And ours.
        assert "200" in _run(_example("httpx_client.py", files / "ca.pem", url))


@pytest.fixture(scope="module")
def nginx(files: Path) -> Iterator[str]:
    """The URL of a page of 100,000 bytes."""
    program = _need("nginx")
    port = _free_port()
    (files / "logs").mkdir(exist_ok=True)
    (files / "nginx.conf").write_text(
        f"""daemon off; pid {files}/nginx.pid; error_log {files}/error.log; events {{}}
http {{
    access_log off; root {files}; client_body_temp_path {files}/b; proxy_temp_path {files}/p; fastcgi_temp_path {files}/f;
    uwsgi_temp_path {files}/u; scgi_temp_path {files}/s; default_type text/plain;
    server {{ listen 127.0.0.1:{port} ssl http2; ssl_certificate {files}/cert.pem; ssl_certificate_key {files}/key.pem; }}
}}"""
    )
    with _running([program, "-p", str(files), "-c", str(files / "nginx.conf")], port):
        yield f"https://localhost:{port}/page"


def test_clients_of_nginx(files: Path, nginx: str) -> None:
    ca = files / "ca.pem"
    assert _run(_example("httpx_client.py", ca, nginx)) == "200 HTTP/2 100000\n" * 2
    assert _run(_example("requests_client.py", ca, nginx)) == "urllib3 200 100000\nrequests 200 100000\n"
    assert _run(_example("aiohttp_client.py", ca, nginx)) == "200 100000\n"


def test_clients_refuse_a_certificate_that_they_do_not_trust(pki: PKI, nginx: str, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(pki.other_ca.cert_pem.bytes())
    for client in ("httpx", "requests", "aiohttp"):
        done = subprocess.run(_example(f"{client}_client.py", other, nginx), capture_output=True, text=True, timeout=_TIMEOUT, check=False)
        assert done.returncode != 0
        assert "CERTIFICATE_VERIFY_FAILED" in done.stderr
        assert "unable to get local issuer certificate" in done.stderr


def test_redis(files: Path) -> None:
    program = _need("redis-server")
    port = _free_port()
    options = f"--port 0 --tls-port {port} --bind 127.0.0.1 --tls-auth-clients no --save '' --dir {files}".split()
    options += [
        "--tls-cert-file",
        str(files / "cert.pem"),
        "--tls-key-file",
        str(files / "key.pem"),
        "--tls-ca-cert-file",
        str(files / "ca.pem"),
    ]
    with _running([program, *[option.strip("'") for option in options]], port):
        assert _run(_example("redis_client.py", files / "ca.pem", port)) == "100000\n"


def test_postgresql(files: Path) -> None:
    initdb, postgres = _need("initdb"), _need("postgres")
    # PostgreSQL does not run as root.
    user: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if user:
            shutil.chown(folder, "postgres")
        data, port = folder / "data", _free_port()
        # Some distributions' wrapper has no idea of a home folder.
        command = [initdb, "-D", str(data), "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8"]
        subprocess.run(command, check=True, capture_output=True, timeout=60, cwd="/", **user)
        for file in ("cert.pem", "key.pem"):
            shutil.copy(files / file, data / file)
            (data / file).chmod(0o600)
            if user:
                shutil.chown(data / file, "postgres")
        (data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 trust\n")
        settings = f"port={port} listen_addresses=127.0.0.1 unix_socket_directories={folder} fsync=off"
        settings += " ssl=on ssl_cert_file=cert.pem ssl_key_file=key.pem"
        command = [postgres, "-D", str(data)]
        for setting in settings.split():
            command += ["-c", setting]
        with _running(command, port, cwd="/", **user):
            # It accepts connections a little before it answers them.
            for _ in range(50):
                done = subprocess.run(
                    _example("asyncpg_client.py", files / "ca.pem", port), capture_output=True, text=True, timeout=_TIMEOUT, check=False
                )
                if "starting up" not in done.stderr:
                    break
                time.sleep(0.1)
            assert done.stdout == "TLSv1.3 1000000\n", done.stderr


def test_smtp(files: Path) -> None:
    keys = (files / "cert.pem", files / "key.pem", files / "ca.pem")
    assert _run(_example("smtp_starttls.py", *keys, _free_port())) == "from a@example.org over TLSv1.3: hello\n"
    openssl, port = _need("openssl"), _free_port()
    with _running(_example("smtp_starttls.py", *keys, port, "serve"), port):
        command = [openssl, "s_client", "-starttls", "smtp", "-connect", f"127.0.0.1:{port}", "-CAfile", str(files / "ca.pem"), "-crlf"]
        done = subprocess.run(command, input=b"EHLO me\r\nQUIT\r\n", capture_output=True, timeout=_TIMEOUT, check=False)
        assert b"Verify return code: 0 (ok)" in done.stdout


def test_websockets(files: Path) -> None:
    from websockets.asyncio.client import connect
    from websockets.asyncio.server import serve

    port = _free_port()
    url = f"wss://localhost:{port}/"
    with _running(_example("websockets_echo.py", "serve", files / "cert.pem", files / "key.pem", port), port):
        assert _run(_example("websockets_echo.py", "talk", files / "ca.pem", url)) == "50000\n"

        async def stranger() -> None:
            async with connect(url, ssl=ssl.create_default_context(cafile=str(files / "ca.pem"))) as connection:
                await connection.send(b"x" * 300_000)
                assert await connection.recv() == b"x" * 300_000

        asyncio.run(stranger())

    async def strange_server() -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(files / "cert.pem", files / "key.pem")

        async def echo(connection: Any) -> None:
            async for message in connection:
                await connection.send(message)

        async with serve(echo, "127.0.0.1", 0, ssl=context) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            command = _example("websockets_echo.py", "talk", files / "ca.pem", f"wss://localhost:{port}/")
            process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
            assert (await process.communicate())[0] == b"50000\n"

    asyncio.run(strange_server())


@pytest.mark.parametrize("world", ["trio", "anyio", "twisted"])
def test_the_worlds_examples(files: Path, world: str) -> None:
    output = _run(_example(f"{world}_echo.py", files / "cert.pem", files / "key.pem", files / "ca.pem"))
    assert re.fullmatch(rf"(hello, {world} over TLSv1.3\n)+", output)
