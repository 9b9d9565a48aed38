"""What an echo test found, for people and for programs."""

from __future__ import annotations

import platform
from typing import Any

from rich.console import Console
from rich.table import Table

from .._engine import openssl_version
from .._version import version
from .load import Load, Result

__all__ = ["as_json", "passed", "print_report"]

_PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)


def passed(load: Load, result: Result) -> bool:
    """Whether every connection was made, something was echoed on it, and every byte came back right."""
    return result.connections == load.connections and not result.errors and result.messages >= load.connections


def _rate(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def as_json(load: Load, result: Result) -> dict[str, Any]:
    """The result as plain values; times in seconds, latencies in microseconds."""
    return {
        "passed": passed(load, result),
        "server": f"{load.host}:{load.port}",
        "sslconnector": version,
        "openssl": openssl_version(),
        "python": platform.python_version(),
        "connections": {"asked": load.connections, "established": result.connections},
        "parameters": dict(result.parameters),
        "handshakes_per_second": _rate(result.connections, result.connect_seconds),
        "messages": result.messages,
        "messages_per_second": _rate(result.messages, result.echo_seconds),
        "bytes_echoed": result.bytes_echoed,
        "megabytes_per_second": _rate(result.bytes_echoed / 1e6, result.echo_seconds),
        "connect_seconds": result.connect_seconds,
        "echo_seconds": result.echo_seconds,
        "latency_microseconds": {f"p{p:g}": result.latency.get_value_at_percentile(p) / 1e3 for p in _PERCENTILES},
        "errors": dict(result.errors),
        "examples": dict(result.examples),
    }


def print_report(load: Load, result: Result, console: Console) -> None:
    """The table."""
    facts = as_json(load, result)
    table = Table(title=f"echo test of {facts['server']}", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("connections", f"{result.connections} of {load.connections}")
    for parameters, count in result.parameters.most_common():
        table.add_row(f"  {parameters}", str(count))
    table.add_row("handshakes/s", f"{facts['handshakes_per_second']:,.0f}")
    table.add_row("messages", f"{result.messages:,}")
    if result.messages:
        table.add_row("messages/s", f"{facts['messages_per_second']:,.0f}")
        table.add_row("MB/s (each way)", f"{facts['megabytes_per_second']:,.1f}")
        for name, value in facts["latency_microseconds"].items():
            table.add_row(f"latency {'max' if name == 'p100' else name}", f"{value / 1e3:,.2f} ms")
    table.add_row("errors", str(sum(result.errors.values())), style="" if not result.errors else "bold red")
    for kind, count in result.errors.most_common():
        table.add_row(f"  {kind}", str(count), style="red")
    console.print(table)
    for kind, example in result.examples.items():
        console.print(f"{kind}: {example}", style="red", highlight=False, markup=False)
    if passed(load, result):
        console.print("every byte came back right", style="green")
    elif not result.errors:
        console.print("nothing was echoed on some connections: give it more time (--duration) or messages", style="red")
