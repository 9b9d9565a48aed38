"""The command line: the echo test against our server and others, and what it says when something is wrong."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sslconnector.harness.commands import cli
from sslconnector.harness.loops import LOOPS
from sslconnector.harness.server import KINDS

from .helpers import PKI, pem_chain, pem_key


def _run(*arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sslconnector", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def _in_process(*arguments: str) -> Any:
    return CliRunner().invoke(cli, list(arguments))


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("tls", ["1.2", "1.3"])
def test_echo_test_passes_against_its_own_server(tmp_path: Path, loop: str, tls: str) -> None:
    report = tmp_path / "report.json"
    done = _in_process("echo-test", "--connections", "20", "--messages", "5", "--loop", loop, "--tls", tls, "--json", str(report))
    assert done.exit_code == 0, done.output
    assert "every byte came back right" in done.output
    assert "20 of 20" in done.output
    facts = json.loads(report.read_text())
    assert facts["passed"]
    assert facts["messages"] == 100
    assert facts["connections"] == {"asked": 20, "established": 20}
    assert facts["errors"] == {}
    assert facts["openssl"].startswith("OpenSSL")
    assert next(iter(facts["parameters"])).startswith(f"TLSv{tls}")
    assert facts["latency_microseconds"]["p50"] > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loop", LOOPS)
def test_every_kind_of_server_passes(kind: str, loop: str) -> None:
    done = _in_process("echo-test", "--connections", "30", "--messages", "10", "--kind", kind, "--loop", loop, "--size", "1-300000")
    assert done.exit_code == 0, done.output
    assert "30 of 30" in done.output


def test_duration_and_sizes() -> None:
    done = _in_process("echo-test", "--connections", "5", "--duration", "0.5", "--size", "100")
    assert done.exit_code == 0, done.output


def test_as_a_process_from_outside() -> None:
    done = _run("echo-test", "--connections", "5", "--messages", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert _run("--version").stdout.startswith("sslconnector 0.")


class _Server:
    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "sslconnector", "echo-server", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()

    @property
    def address(self) -> str:
        assert self.line.startswith("listening on "), self.line
        return self.line.removeprefix("listening on ").strip()

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=10)
        return self.process.returncode, out, err


@pytest.mark.parametrize(("kind", "loop"), [("protocol", "asyncio"), ("streams", "uvloop"), ("sync", "asyncio")])
def test_echo_server_makes_its_own_ca(kind: str, loop: str) -> None:
    server = _Server("--loop", loop, "--kind", kind)
    try:
        assert server.process.stderr is not None
        ca = server.process.stderr.readline().split(" lies in ")[1].strip()
        done = _in_process(
            "echo-test", "--server", server.address, "--server-name", "localhost", "--ca", ca, "--connections", "3", "--messages", "2"
        )
        assert done.exit_code == 0, done.output
        done = _in_process("echo-test", "--server", server.address, "--connections", "3", "--messages", "2")
        assert done.exit_code == 1
        assert "CertificateError" in done.output
        assert "3" in done.output
    finally:
        code, out, err = server.stop()
    assert (code, out, err) == (0, "", "")
    assert not Path(ca).exists()


def test_echo_server_with_a_given_certificate(tmp_path: Path, pki: PKI) -> None:
    (tmp_path / "ca.pem").write_bytes(pki.ca_pem)
    (tmp_path / "cert.pem").write_bytes(pem_chain(pki.server))
    (tmp_path / "key.pem").write_bytes(pem_key(pki.server))
    server = _Server("--cert", str(tmp_path / "cert.pem"), "--key", str(tmp_path / "key.pem"))
    try:
        done = _in_process(
            "echo-test", "--server", server.address, "--ca", str(tmp_path / "ca.pem"), "--connections", "3", "--messages", "2"
        )
        assert done.exit_code == 0, done.output
    finally:
        assert server.stop(signal.SIGTERM)[0] == 0


@pytest.fixture
def faulty(pki: PKI) -> Iterator[Callable[[str], int]]:
    """Servers on Python's ssl that get something wrong."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    servers = []

    async def start(fault: str) -> int:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        pki.server_cert.configure_cert(context)
        count = 0

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal count
            try:
                while data := await reader.read(65536):
                    count += len(data)
                    if fault == "flips a byte" and count > 1000:
                        data = bytes([data[0] ^ 1]) + data[1:]
                    if fault == "says too much":
                        data += b"!"
                    if fault == "closes" and count > 1000:
                        break
                    if fault != "is silent":
                        writer.write(data)
                        await writer.drain()
            except (ConnectionError, ssl.SSLError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
        servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    def make(fault: str) -> int:
        return asyncio.run_coroutine_threadsafe(start(fault), loop).result(10)

    yield make

    async def stop() -> None:
        for server in servers:
            server.close()
        await asyncio.sleep(0.1)
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()
        await asyncio.sleep(0.1)

    asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("flips a byte", "WrongEchoError"), ("says too much", "WrongEchoError"), ("closes", "Incomplete|Truncation|Reset"), ("", "")],
)
def test_a_faulty_server_is_found_out(tmp_path: Path, pki: PKI, faulty: Callable[[str], int], fault: str, kind: str) -> None:
    import re

    (tmp_path / "ca.pem").write_bytes(pki.ca_pem)
    port = faulty(fault)
    arguments = ("--ca", str(tmp_path / "ca.pem"), "--connections", "3", "--messages", "10", "--size", "500")
    done = _in_process("echo-test", "--server", f"127.0.0.1:{port}", *arguments)
    assert done.exit_code == (1 if fault else 0), done.output
    assert re.search(kind, done.output)


def test_a_silent_server_is_found_out(pki: PKI, faulty: Callable[[str], int]) -> None:
    from sslconnector.harness.load import Load, run_load

    load = Load(host="127.0.0.1", port=faulty("is silent"), server_hostname="localhost", connections=2, patience=0.3)
    result = asyncio.run(run_load(load, pki.client_context()))
    assert result.errors == {"NoAnswerError": 2}


def test_nobody_listens() -> None:
    done = _in_process("echo-test", "--server", "127.0.0.1:1", "--connections", "2")
    assert done.exit_code == 1
    assert "ConnectionRefusedError" in done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["echo-test", "--server", "localhost"], "not HOST:PORT"),
        (["echo-test", "--server", "localhost:70000"], "not HOST:PORT"),
        (["echo-test", "--server", "localhost:1", "--ca", "/nowhere/ca.pem"], "there is no file '/nowhere/ca.pem'"),
        (["echo-test", "--server", "localhost:1", "--ca", "/"], "is a directory"),
        (["echo-test", "--ca", "x"], "--ca goes with --server"),
        (["echo-test", "--server", "localhost:1", "--kind", "sync"], "does not go with --server"),
        (["echo-server", "--kind", "fork"], "fork"),
        (["echo-test", "--connections", "0"], "0 is not in the range"),
        (["echo-test", "--connections", "100000000"], "file descriptors"),
        (["echo-test", "--size", "big"], "not a size in bytes"),
        (["echo-test", "--json", "/nowhere/report.json"], "there is no folder '/nowhere'"),
        (["echo-test", "--size", "5-1"], "not a size in bytes"),
        (["echo-test", "--tls", "1.1"], "1.1"),
        (["echo-server", "--cert", "/nowhere.pem"], "there is no file"),
        (["echo-server", "--key", "/nowhere.pem"], "--key goes with --cert"),
        (["echo-server", "--port", "70000"], "70000"),
        (["echo-server", "--host", "192.0.2.1"], "192.0.2.1"),
    ],
)
def test_wrong_input_is_told_in_a_sentence(arguments: list[str], words: str) -> None:
    done = _in_process(*arguments)
    assert done.exit_code != 0
    assert words in done.output
    assert "Traceback" not in done.output


def test_uvloop_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    done = _in_process("echo-server", "--loop", "uvloop")
    assert done.exit_code == 1
    assert "sslconnector[uvloop]" in done.output


def test_an_echo_test_without_messages_has_not_passed() -> None:
    from sslconnector.harness.load import Load, Result
    from sslconnector.harness.report import passed, print_report

    load = Load(host="h", port=1, server_hostname="h", connections=1)
    result = Result(connections=1)
    assert not passed(load, result)
    from rich.console import Console

    console = Console(record=True, width=100)
    print_report(load, result, console)
    assert "nothing was echoed" in console.export_text()
