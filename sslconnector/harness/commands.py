"""What the command line offers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from .._engine import openssl_version
from .._version import version
from ..config import TLSVersion
from ..context import ClientContext, ServerContext
from ..errors import ConfigurationError
from ..identity import Identity
from ..trust import TrustStore
from .certificates import make_certificates
from .load import Load, Result, run_load
from .loops import LOOPS, run
from .report import as_json, passed, print_report
from .server import KINDS, serve, serve_sync

__all__ = ["cli"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version, message=f"sslconnector %(version)s, {openssl_version()}, Python {sys.version.split()[0]}")
def cli() -> None:
    """TLS between OpenSSL and any transport: echo server and echo test."""


class _Address(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """HOST:PORT, or [HOST]:PORT for an IPv6 address."""

    name = "HOST:PORT"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, int]:
        match = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+)):(\d{1,5})", value)
        if match is None or not 0 < int(match[3]) < 65536:
            self.fail(
                f"{value!r} is not HOST:PORT with a port from 1 to 65535 (an IPv6 address goes into brackets: [::1]:4433)", param, ctx
            )
        return match[1] or match[2], int(match[3])


class _Sizes(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """BYTES, or SMALLEST-LARGEST."""

    name = "BYTES"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", value)
        smallest = int(match[1]) if match else 0
        largest = int(match[2] or match[1]) if match else 0
        if not 1 <= smallest <= largest <= 1 << 30:
            self.fail(f"{value!r} is not a size in bytes such as 1000, or a range such as 1-65536", param, ctx)
        return smallest, largest


_kind_option = click.option("--kind", type=click.Choice(KINDS), default="protocol", show_default=True, help="How the server is written.")
_loop_option = click.option("--loop", type=click.Choice(LOOPS), default="asyncio", show_default=True, help="The event loop to run on.")


@cli.command("echo-server")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="The port; 0 picks a free one.")
@click.option("--cert", type=click.Path(path_type=Path), help="Certificate chain (PEM). Without it, a CA and a certificate are made.")
@click.option("--key", type=click.Path(path_type=Path), help="Private key (PEM), if it is not in --cert.")
@_kind_option
@_loop_option
def echo_server(host: str, port: int, cert: Path | None, key: Path | None, kind: str, loop: str) -> None:
    """Echoes what it gets, until interrupted. Prints one line when ready: listening on HOST:PORT."""
    if key is not None and cert is None:
        raise click.UsageError("--key goes with --cert")
    with tempfile.TemporaryDirectory(prefix="sslconnector-") as folder:
        if cert is None:
            made = make_certificates(Path(folder), "localhost", "127.0.0.1", "::1")
            cert, key = made.certificate, made.key
            click.echo(f"the CA of this server's certificate (for localhost) lies in {made.ca}", err=True)
        with _one_line_errors():
            context = ServerContext(identities=Identity.from_files(cert, key))
            if kind == "sync":
                serve_sync(context, host, port, _say_ready)
            else:
                run(serve(context, host, port, _say_ready, kind), loop)


def _say_ready(host: str, port: int) -> None:
    click.echo(f"listening on {f'[{host}]' if ':' in host else host}:{port}")
    sys.stdout.flush()


@cli.command("echo-test")
@click.option("--server", "address", type=_Address(), help="The echo server to test. Without it, one is started in another process.")
@click.option("--ca", type=click.Path(path_type=Path), help="The CA of the server's certificate (PEM); without it, the system's.")
@click.option("--server-name", help="The name that the server's certificate must carry; HOST unless given.")
@click.option("--connections", type=click.IntRange(1), default=200, show_default=True, help="How many connections, all open at once.")
@click.option("--messages", type=click.IntRange(1), default=20, show_default=True, help="Messages on each connection.")
@click.option("--size", type=_Sizes(), default="1-65536", show_default=True, help="Size of a message, or a range of sizes.")
@click.option("--duration", type=click.FloatRange(0, min_open=True), help="Seconds to go on for, instead of --messages.")
@click.option("--tls", type=click.Choice(["1.2", "1.3"]), help="The one TLS version to use.")
@_kind_option
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the result to this file, too.")
@_loop_option
def echo_test(
    address: tuple[str, int] | None,
    ca: Path | None,
    server_name: str | None,
    connections: int,
    messages: int,
    size: tuple[int, int],
    duration: float | None,
    tls: str | None,
    kind: str,
    json_file: Path | None,
    loop: str,
) -> None:
    """Opens many TLS connections to an echo server, sends messages of many sizes in many pieces, and checks every byte that comes back.

    Exits with 0 only if every connection was made and every byte came back right.
    """
    if ca is not None and address is None:
        raise click.UsageError("--ca goes with --server: the server that is started here has a CA of its own")
    if kind != "protocol" and address is not None:
        raise click.UsageError("--kind is about the server that is started here; it does not go with --server")
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise click.UsageError(f"--json: there is no folder {str(json_file.parent)!r}")
    _check_descriptors(connections)
    console = Console(stderr=False)
    versions: dict[str, Any] = {} if tls is None else {"minimum_version": _TLS[tls], "maximum_version": _TLS[tls]}
    with _one_line_errors(), _own_server(loop, kind) if address is None else _given_server(address, server_name, ca) as target:
        context = ClientContext(trust=target.trust, **versions)
        load = Load(
            host=target.host,
            port=target.port,
            server_hostname=target.name,
            connections=connections,
            messages=messages,
            duration=duration,
            sizes=size,
        )
        result = _run_with_progress(load, context, loop, console)
        print_report(load, result, console)
        if json_file is not None:
            json_file.write_text(json.dumps(as_json(load, result), indent=2) + "\n")
    sys.exit(0 if passed(load, result) else 1)


_TLS = {"1.2": TLSVersion.TLSv1_2, "1.3": TLSVersion.TLSv1_3}


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """What the user can mend is told in one sentence, without a traceback."""
    try:
        yield
    except (ConfigurationError, ModuleNotFoundError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error


def _check_descriptors(connections: int) -> None:
    try:
        import resource
    except ModuleNotFoundError:  # pragma: no cover - Windows
        return
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if connections + 50 > limit:
        raise click.UsageError(
            f"{connections} connections need more file descriptors than this process may have ({limit}); ask for at most {limit - 50}, "
            "or raise the limit (ulimit -n)"
        )


class _Target(NamedTuple):
    """The server to test; ``trust`` None for the system's CAs."""

    host: str
    port: int
    name: str
    trust: TrustStore | None


@contextmanager
def _given_server(address: tuple[str, int], name: str | None, ca: Path | None) -> Iterator[_Target]:
    """Somebody else's echo server."""
    host, port = address
    yield _Target(host, port, name or host, None if ca is None else TrustStore.from_file(ca))


@contextmanager
def _own_server(loop: str, kind: str) -> Iterator[_Target]:
    """An echo server in another process, with a CA of its own."""
    with tempfile.TemporaryDirectory(prefix="sslconnector-") as folder:
        made = make_certificates(Path(folder), "localhost", "127.0.0.1")
        command = [sys.executable, "-m", "sslconnector", "echo-server", "--cert", str(made.certificate), "--key", str(made.key)]
        with subprocess.Popen([*command, "--loop", loop, "--kind", kind], stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                match = re.fullmatch(r"listening on (.+):(\d+)\n", line)
                if match is None:
                    raise click.ClickException(f"the echo server did not start: it said {line!r}")
                yield _Target(match[1], int(match[2]), "localhost", TrustStore.from_file(made.ca))
                if process.poll() is not None:
                    raise click.ClickException(f"the echo server ended by itself, with status {process.returncode}")
            finally:
                process.terminate()


def _run_with_progress(load: Load, context: ClientContext, loop: str, console: Console) -> Result:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        total = load.connections * load.messages if load.duration is None else None
        task = bar.add_task(f"{load.connections} connections", total=total, words="handshakes")

        def progress(result: Result) -> None:
            failed = sum(result.errors.values())
            words = f"{result.messages:,} messages" + (f", {failed} errors" if failed else "")
            bar.update(task, completed=result.messages, words=words)

        return run(run_load(load, context, progress), loop)
