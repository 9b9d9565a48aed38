"""The examples run, and the README's code is the examples' code."""

from __future__ import annotations

import re
import subprocess
import sys
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


def test_echo_server_and_client(pki: PKI, tmp_path: Path) -> None:
    for name, data in (("ca.pem", pki.ca_pem), ("cert.pem", pem_chain(pki.server)), ("key.pem", pem_key(pki.server))):
        (tmp_path / name).write_bytes(data)
    command = [sys.executable, str(_ROOT / "examples" / "echo_server.py"), str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().split()[-1]
            assert _run("echo_client.py", "127.0.0.1", port, str(tmp_path / "ca.pem"), "some words") == "some words\n"
        finally:
            server.terminate()


@pytest.mark.parametrize("block", range(2))
def test_the_readmes_code_runs(pki: PKI, tmp_path: Path, block: int) -> None:
    """Client and server of the README, together; each as it stands there."""
    blocks = re.findall(r"```python\n(.*?)```", (_ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) >= 2
    for number, code in enumerate(blocks[:2]):
        (tmp_path / f"block{number}.py").write_text(code)
        compile(code, f"README block {number}", "exec")
    if block == 0:
        return
    for name, data in (("ca.pem", pki.ca_pem), ("cert.pem", pem_chain(pki.server)), ("key.pem", pem_key(pki.server))):
        (tmp_path / name).write_bytes(data)
    with subprocess.Popen([sys.executable, "-u", str(tmp_path / "block0.py")], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert "listening" in server.stdout.readline()
            done = subprocess.run(
                [sys.executable, str(tmp_path / "block1.py")], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
            )
            assert done.returncode == 0, done.stderr
            assert "hello" in done.stdout
        finally:
            server.terminate()
