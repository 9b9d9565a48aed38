"""The examples run, and the README's code is the examples' code."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .helpers import PKI, pem_chain, pem_key

_ROOT = Path(__file__).parent.parent


def _run(name: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "error", str(_ROOT / "examples" / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_in_memory_pair() -> None:
    output = _run("in_memory_pair.py")
    assert "server got b'hello'" in output
    assert "TLSv1.3" in output


def test_mutual_tls() -> None:
    output = _run("mutual_tls.py")
    assert "hello, CN=alice" in output
    assert "refused: the server ended the connection with the alert certificate_required" in output


def test_over_a_queue() -> None:
    output = _run("over_a_queue.py")
    assert "client heard b'hello from the server'" in output
    assert "server heard b'hello from the client'" in output


@pytest.fixture
def files(pki: PKI, tmp_path: Path) -> list[str]:
    """cert.pem, key.pem, ca.pem."""
    for name, data in (("cert.pem", pem_chain(pki.server)), ("key.pem", pem_key(pki.server)), ("ca.pem", pki.ca_pem)):
        (tmp_path / name).write_bytes(data)
    return [str(tmp_path / name) for name in ("cert.pem", "key.pem", "ca.pem")]


@contextmanager
def _server(name: str, files: list[str]) -> Iterator[str]:
    """An example that serves; gives the port."""
    command = [sys.executable, str(_ROOT / "examples" / name), *files[:2], "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().split()[-1]
        finally:
            server.terminate()


def test_echo_server_and_client(files: list[str]) -> None:
    with _server("echo_server.py", files) as port:
        assert _run("echo_client.py", "127.0.0.1", port, files[2], "some words") == "some words\n"


def test_streams(files: list[str]) -> None:
    with _server("streams_server.py", files) as port:
        assert _run("streams_client.py", "127.0.0.1", port, files[2], "some", "words") == "SOME\nWORDS\n"


def test_starttls(files: list[str]) -> None:
    output = _run("starttls.py", *files)
    assert output.splitlines() == [
        "greeting: 220 ready",
        "SECRET: 530 STARTTLS first",
        "STARTTLS: 220 go ahead",
        "SECRET: 250 the secret",
    ]


def test_tls_in_tls(files: list[str]) -> None:
    assert _run("tls_in_tls.py", *files) == "you said: hello through two layers\n"


def test_selector_server_and_blocking_client(files: list[str]) -> None:
    words = "w" * 100_000
    with _server("selector_server.py", files) as port:
        for _ in range(3):
            command = [sys.executable, "-W", "error", str(_ROOT / "examples" / "blocking_client.py"), "127.0.0.1", port, files[2], words]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
            assert (done.returncode, done.stdout) == (0, words + "\n"), done.stderr
            assert "TLSv1.3" in done.stderr


@pytest.mark.parametrize("block", [1, 2])
def test_the_readmes_code_runs(pki: PKI, tmp_path: Path, block: int) -> None:
    """Server and clients of the README, together; each as it stands there."""
    blocks = re.findall(r"```python\n(.*?)```", (_ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    for number, code in enumerate(blocks):
        (tmp_path / f"block{number}.py").write_text(code)
    for name, data in (("ca.pem", pki.ca_pem), ("cert.pem", pem_chain(pki.server)), ("key.pem", pem_key(pki.server))):
        (tmp_path / name).write_bytes(data)
    with subprocess.Popen([sys.executable, "-u", str(tmp_path / "block0.py")], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert "listening" in server.stdout.readline()
            done = subprocess.run(
                [sys.executable, str(tmp_path / f"block{block}.py")], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
            )
            assert done.returncode == 0, done.stderr
            assert "hello" in done.stdout
        finally:
            server.terminate()
