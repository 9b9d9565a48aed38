"""sslconnector and its peers side by side: every server under the same load, in one run, round by round.

    python benchmarks/compare.py [--quick] [--rows echo,bulk,...] [--servers NAME,...] [--out DIRECTORY]

Writes results.md, results.json and a plot for each group of rows. What is measured and what it means: docs/performance.

The load and the limit to measure against (benchmarks/c) are compiled here; that takes a C compiler and OpenSSL's headers. CPU time is read
from /proc, so it takes Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trustme

HERE = Path(__file__).resolve().parent
CIPHER, GROUP, HYBRID = "TLS_AES_256_GCM_SHA384", "X25519", "X25519MLKEM768"

#: The server that the others are compared to, on each loop.
OURS = "sslconnector"


@dataclass(frozen=True)
class Server:
    """One thing to measure. ``newer``: put a current OpenSSL in front of the one that it links."""

    name: str
    command: str
    newer: bool = False
    engine: str = ""
    plain: bool = False


SERVERS = (
    Server(OURS, "sslconnector"),
    Server("sslconnector, pure Python", "sslconnector", engine="direct"),
    Server("uvloop", "uvloop"),
    Server("uvloop, OpenSSL 3.5+", "uvloop", newer=True),
    Server("aiofastnet", "aiofastnet"),
    Server("aiofastnet, OpenSSL 3.5+", "aiofastnet", newer=True),
    Server("sslconnector on asyncio", "sslconnector-asyncio"),
    Server("asyncio", "asyncio"),
    Server("asyncio, OpenSSL 3.5+", "asyncio", newer=True),
    Server("Twisted", "twisted"),
    Server("trio", "trio"),
    Server("anyio on uvloop", "anyio"),
    Server("gevent", "gevent"),
    Server("C, memory BIOs", "C"),
    Server("C, memory BIOs, OpenSSL 3.5+", "C", newer=True),
    Server("TCP alone, uvloop", "tcp-uvloop", plain=True),
    Server("TCP alone, C", "C", plain=True),
)


@dataclass(frozen=True)
class Row:
    """One kind of load. ``unit`` is what CPU time is counted per; ``better`` says which figure the ratio is made of."""

    group: str
    title: str
    mode: str
    options: dict[str, Any]
    unit: str = "message"
    figure: str = "cpu_us"
    plain: bool = True


@dataclass
class Results:
    """Samples by row and server, and what was left out."""

    samples: dict[str, dict[str, list[dict[str, float]]]] = field(default_factory=dict)
    openssl: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    limited: set[str] = field(default_factory=set)

    def add(self, row: str, server: str, sample: dict[str, float]) -> None:
        self.samples.setdefault(row, {}).setdefault(server, []).append(sample)

    def median(self, row: str, server: str, figure: str) -> float | None:
        found = [sample[figure] for sample in self.samples.get(row, {}).get(server, ())]
        return statistics.median(found) if found else None


def echo_rows(quick: bool) -> list[Row]:
    sizes, counts = ((64, 16384), (64,)) if quick else ((64, 1024, 16384), (1, 64, 512))
    return [
        Row("echo", f"echo {size} B, {count} connections", "echo", {"size": size, "connections": count})
        for size in sizes
        for count in counts
    ]


def bulk_rows(quick: bool) -> list[Row]:
    return [
        Row("bulk", f"bulk, full duplex, {count} connections", "bulk", {"connections": count}, unit="MB")
        for count in ((16,) if quick else (1, 16))
    ]


def handshake_rows(quick: bool) -> list[Row]:
    kinds = (("full handshakes", 0), ("resumed handshakes", 1))
    return [
        Row("handshake", title, "handshake", {"connections": 16, "resume": resume}, unit="handshake", plain=False)
        for title, resume in (kinds[1:] if quick else kinds)
    ]


ROWS = {"echo": echo_rows, "bulk": bulk_rows, "handshake": handshake_rows}


class Workshop:
    """Temporary files: certificates, the compiled programs, a current OpenSSL."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        authority = trustme.CA()
        leaf = authority.issue_cert("localhost")
        self.certificate, self.key = directory / "certificate.pem", directory / "key.pem"
        self.certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(str(self.key))
        self.newer = self._newer_openssl()
        self.load, self.echo_server = self._compile("load.c"), self._compile("echo_server.c")

    def _compile(self, source: str) -> Path:
        compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            sys.exit("the load is a C program, and there is no C compiler: install one (Debian: apt install gcc libssl-dev)")
        target = self.directory / source.removesuffix(".c")
        command = [compiler, "-O2", "-o", str(target), str(HERE / "c" / source), "-lssl", "-lcrypto", "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr[:2000], file=sys.stderr)
            sys.exit(f"{source} cannot be compiled; OpenSSL's headers may be missing (Debian: apt install libssl-dev)")
        return target

    def _newer_openssl(self) -> Path | None:
        """The shared libraries that psycopg's wheel carries, under the names that other programs look for."""
        spec = importlib.util.find_spec("psycopg_binary")
        if spec is None or spec.origin is None:
            return None
        carried = Path(spec.origin).parent.parent / "psycopg_binary.libs"
        target = self.directory / "openssl"
        target.mkdir()
        for name in ("libssl", "libcrypto"):
            for library in carried.glob(f"{name}-*.so.3"):
                (target / library.name).symlink_to(library)
                (target / f"{name}.so.3").symlink_to(library)
        return target if (target / "libssl.so.3").exists() else None

    def environment(self, newer: bool, engine: str = "") -> dict[str, str]:
        values = dict(os.environ)
        values.pop("SSLCONNECTOR_ENGINE", None)
        if engine:
            values["SSLCONNECTOR_ENGINE"] = engine
        if newer and self.newer is not None:
            values["LD_LIBRARY_PATH"] = str(self.newer)
        return values


class Running:
    """A server's process."""

    def __init__(self, workshop: Workshop, server: Server, *, pinned: bool) -> None:
        files = [str(workshop.certificate), str(workshop.key)]
        if server.command == "C":
            command = [str(workshop.echo_server), *(["--plain"] if server.plain else files)]
        else:
            command = [sys.executable, str(HERE / "servers.py"), server.command, *files]
        # What peers print about connections that end is their habit, not a result.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            on_core(0, command) if pinned else command,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=workshop.environment(server.newer, server.engine),
        )
        assert self.process.stdout is not None
        first = self.process.stdout.readline().split(" ", 1)
        if not first[0].isdigit():
            self.process.wait()
            self._errors.seek(0)
            last = self._errors.read().decode(errors="replace").strip().splitlines()
            raise RuntimeError(last[-1] if last else "it ended at once")
        self.port, self.openssl = int(first[0]), first[1].strip()

    def cpu(self) -> float:
        """Seconds of CPU, user and system, of all threads; /proc/.../stat would count in hundredths of a second."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9

    def memory(self) -> tuple[int, int]:
        """RSS and PSS in KiB."""
        found = {}
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in ("Rss", "Pss"):
                found[name] = int(rest.split()[0])
        return found["Rss"], found["Pss"]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self._errors.close()


def on_core(core: int, command: list[str]) -> list[str]:
    """The command, bound to one core where there are two and a program to do it."""
    if shutil.which("taskset") and len(os.sched_getaffinity(0)) > 1:
        return ["taskset", "-c", str(sorted(os.sched_getaffinity(0))[core]), *command]
    return command


def load(workshop: Workshop, mode: str, port: int, *, pinned: bool = True, polite: bool = False, **options: Any) -> subprocess.Popen[str]:
    options = {"cipher": CIPHER, "group": GROUP, **options}
    command = [str(workshop.load), mode, str(port), *(f"{name}={value}" for name, value in options.items())]
    if polite:
        command = ["nice", "-n", "19", *command]
    return subprocess.Popen(
        on_core(1, command) if pinned else command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=workshop.environment(newer=True),
    )


def counted(running: Running, client: subprocess.Popen[str]) -> tuple[dict[str, Any], float]:
    """The client's figures, and the server's CPU time while it counted."""
    assert client.stdout is not None
    client.stdout.readline()
    before = running.cpu()
    line = client.stdout.readline()
    spent = running.cpu() - before
    _, errors = client.communicate()
    if client.returncode or not line:
        raise RuntimeError(errors.strip().splitlines()[0] if errors.strip() else "the load failed")
    return json.loads(line), spent


def measure(workshop: Workshop, running: Running, server: Server, row: Row, seconds: float) -> tuple[dict[str, float], float]:
    warmup = min(0.3, seconds / 2)
    client = load(workshop, row.mode, running.port, seconds=seconds, warmup=warmup, plain=int(server.plain), **row.options)
    figures, cpu = counted(running, client)
    amount = figures["bytes"] / 1e6 if row.mode == "bulk" else figures["messages"]
    if not amount:
        raise RuntimeError("nothing came back")
    sample = {"cpu_us": cpu / amount * 1e6, "per_second": amount / figures["seconds"], "client_busy": figures["busy"]}
    if row.mode == "echo":
        sample.update(p50_us=figures["p50_us"], p99_us=figures["p99_us"])
    if row.options.get("resume") and figures["resumed"] < 0.9 * figures["handshakes"]:
        raise RuntimeError("the server did not resume")
    return sample, figures["busy"]


def start(workshop: Workshop, server: Server, results: Results, *, pinned: bool) -> Running | None:
    """The server's process; None, and a reason in the results, where there can be none."""
    if server.newer and workshop.newer is None:
        results.skipped[server.name] = "no newer OpenSSL: psycopg-binary is not installed"
        return None
    try:
        running = Running(workshop, server, pinned=pinned)
    except (OSError, RuntimeError) as error:
        results.skipped[server.name] = str(error)
        return None
    results.openssl[server.name] = running.openssl if not server.plain else "none"
    return running


def measure_alone(workshop: Workshop, server: Server, row: Row, results: Results, take: Callable[[Running], dict[str, float]]) -> None:
    """One sample of a server that runs for it alone."""
    running = start(workshop, server, results, pinned=False)
    if running is None:
        return
    try:
        results.add(row.title, server.name, take(running))
    except (OSError, RuntimeError) as error:
        results.skipped[f"{server.name}, {row.title}"] = str(error)
    finally:
        running.stop()


def run_loads(workshop: Workshop, servers: list[Server], rows: list[Row], results: Results, rounds: int, seconds: float) -> None:
    started = {server: start(workshop, server, results, pinned=True) for server in servers}
    all_running = {server: running for server, running in started.items() if running is not None}
    try:
        for number in range(rounds):
            for row in rows:
                print(f"round {number + 1} of {rounds}: {row.title}", flush=True)
                for server, running in all_running.items():
                    if server.plain and not row.plain:
                        continue
                    try:
                        sample, busy = measure(workshop, running, server, row, seconds)
                    except (OSError, RuntimeError) as error:
                        results.skipped[f"{server.name}, {row.title}"] = str(error)
                        continue
                    results.add(row.title, server.name, sample)
                    if busy > 0.9:
                        results.limited.add(row.title)
    finally:
        for running in all_running.values():
            running.stop()


def run_latency(workshop: Workshop, servers: list[Server], results: Results, rounds: int, seconds: float) -> Row:
    """64 connections that each send 50 messages a second, on a schedule, while handshakes arrive at random."""
    row = Row("latency", "64 connections, 500 handshakes a second beside them", "echo", {}, figure="p99_us")

    def take(running: Running) -> dict[str, float]:
        options = {"connections": 200, "rate": 500, "seconds": seconds + 1.5}
        beside = load(workshop, "handshake", running.port, pinned=False, polite=True, **options)
        time.sleep(0.4)
        client = load(workshop, "echo", running.port, pinned=False, connections=64, size=64, interval=20000, seconds=seconds)
        figures, cpu = counted(running, client)
        shaken, errors = beside.communicate()
        if beside.returncode:
            raise RuntimeError(errors.strip())
        handshakes = json.loads(shaken.splitlines()[-1])
        sample = {"p50_us": figures["p50_us"], "p99_us": figures["p99_us"], "cpu_us": cpu / figures["messages"] * 1e6}
        sample.update(per_second=handshakes["messages"] / handshakes["seconds"], client_busy=figures["busy"])
        return sample

    for number in range(rounds):
        print(f"round {number + 1} of {rounds}: {row.title}", flush=True)
        for server in servers:
            if not server.plain:
                measure_alone(workshop, server, row, results, take)
    return row


def run_memory(workshop: Workshop, servers: list[Server], results: Results, connections: int, quick: bool) -> list[Row]:
    """What each of many idle connections holds: a fresh server for each figure, warmed up with 100 connections."""
    stages: list[tuple[str, int | None, str]] = []
    if not quick:
        stages.append(("before the first byte", None, GROUP))
    for group in (GROUP,) if quick else (GROUP, HYBRID):
        for name, size in (("after the handshake", 0), ("after 16 KiB", 16384), ("after 1 MiB", 1 << 20)):
            if not quick or size == 16384:
                stages.append((f"{name}, {group}", size, group))
    rows = []
    for title, stage_size, group in stages:
        row = Row("memory", f"idle {title}", "hold", {}, unit="connection", figure="rss_kib")
        rows.append(row)
        print(row.title, flush=True)
        for server in servers:
            # A server that links an OpenSSL before 3.5 has no hybrid group, and is skipped there.
            if not server.plain and not server.newer:
                measure_alone(workshop, server, row, results, partial(_hold, workshop, connections, stage_size, group))
    return rows


def _hold(workshop: Workshop, connections: int, size: int | None, group: str, running: Running) -> dict[str, float]:
    options: dict[str, Any] = {"size": size or 0, "group": group, "plain": int(size is None)}
    for count in (100, connections):
        before = running.memory()
        client = load(workshop, "hold", running.port, pinned=False, connections=count, **options)
        assert client.stdout is not None
        ready = client.stdout.readline()
        # Tickets are held back for a quarter of a second, memory is given back after a tenth.
        time.sleep(1.0)
        after = running.memory()
        _, errors = client.communicate()
        if not ready:
            raise RuntimeError(errors.strip().splitlines()[0] if errors.strip() else "the load failed")
        time.sleep(0.5)
    return {"rss_kib": (after[0] - before[0]) / connections, "pss_kib": (after[1] - before[1]) / connections}


def reference(name: str) -> str:
    """Whom a server is compared to: ours on the same loop."""
    return "sslconnector on asyncio" if name.startswith("asyncio") or name == "sslconnector on asyncio" else OURS


def _span(values: list[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def markdown(results: Results, rows: list[Row], rounds: int, seconds: float) -> str:
    lines = ["# sslconnector and its peers", ""]
    lines += [
        f"{describe_machine()}. {rounds} interleaved rounds of {seconds:g} s; medians, in brackets minimum and maximum. The load pins ",
        "",
    ]
    lines[-2] += f"TLS 1.3, {CIPHER}, {GROUP} and a P-256 leaf for all. Ratio: theirs to ours, on the same loop; above 1, ours is better."
    lines += ["| server | OpenSSL |", "|---|---|"]
    lines += [f"| {name} | {version} |" for name, version in results.openssl.items()] + [""]
    for row in rows:
        found = results.samples.get(row.title)
        if not found:
            continue
        lines += [f"## {row.title}", ""]
        if row.group == "memory":
            lines += ["| server | RSS, KiB a connection | PSS | ratio |", "|---|---|---|---|"]
        elif row.group == "latency":
            lines += ["| server | p99, us | p50, us | handshakes/s | ratio of p99 |", "|---|---|---|---|---|"]
        else:
            rate = {"MB": "MB/s", "handshake": "handshakes/s"}.get(row.unit, "messages/s")
            tail = " p50 / p99, us |" if row.group == "echo" else ""
            lines += [
                f"| server | CPU us/{row.unit} | {rate} | ratio of CPU | client busy |{tail}",
                "|---|---|---|---|---|" + "---|" * bool(tail),
            ]
        for name, samples in found.items():
            column = {key: [sample[key] for sample in samples] for key in samples[0]}
            ratio = ratio_of(results, row, name)
            shown = "" if ratio is None else f"{ratio:.2f}"
            if row.group == "memory":
                lines.append(f"| {name} | {_span(column['rss_kib'], 1)} | {_span(column['pss_kib'], 1)} | {shown} |")
            elif row.group == "latency":
                rate = _span(column["per_second"], 0)
                lines.append(f"| {name} | {_span(column['p99_us'], 0)} | {_span(column['p50_us'], 0)} | {rate} | {shown} |")
            else:
                busy = statistics.median(column["client_busy"])
                cells = [name, _span(column["cpu_us"], 1), _span(column["per_second"], 0), shown, f"{busy:.0%}"]
                if row.group == "echo":
                    cells.append(f"{statistics.median(column['p50_us']):,.0f} / {statistics.median(column['p99_us']):,.0f}")
                lines.append("| " + " | ".join(cells) + " |")
        if row.title in results.limited:
            lines += [
                "",
                "The client was busy for more than nine tenths of the time with some of them: there CPU time counts, not the rate.",
            ]
        lines.append("")
    if results.skipped:
        lines += ["## Left out", ""] + [f"* {name}: {reason}" for name, reason in results.skipped.items()] + [""]
    return "\n".join(lines)


def ratio_of(results: Results, row: Row, name: str) -> float | None:
    theirs, ours = results.median(row.title, name, row.figure), results.median(row.title, reference(name), row.figure)
    return theirs / ours if theirs is not None and ours else None


def plot(results: Results, rows: list[Row], group: str, target: Path) -> None:
    """Bars of the ratio to each peer, one panel a row."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    shown = [row for row in rows if row.group == group and row.title in results.samples]
    if not shown:
        return
    names = [name for name in results.openssl if any(name in results.samples[row.title] for row in shown) and not name.startswith("TCP")]
    figure, panels = pyplot.subplots(1, len(shown), figsize=(2.2 + 2.6 * len(shown), 1.2 + 0.28 * len(names)), sharey=True, squeeze=False)
    for panel, row in zip(panels[0], shown, strict=True):
        ratios = [ratio_of(results, row, name) or 0 for name in names]
        colours = ["#2a6f97" if name.startswith("sslconnector") else "#a9a9a9" for name in names]
        panel.barh(names, ratios, color=colours)
        panel.axvline(1, color="black", linewidth=0.8)
        panel.set_title(row.title, fontsize=8)
        panel.tick_params(labelsize=7)
        for position, ratio in enumerate(ratios):
            panel.text(ratio, position, f" {ratio:.2f}" if ratio else " -", va="center", fontsize=7)
        panel.set_xlim(0, max([*ratios, 1]) * 1.25)
    panels[0][0].invert_yaxis()
    what = {"memory": "memory", "latency": "p99"}.get(group, "CPU time")
    figure.suptitle(f"{what}: theirs to sslconnector's on the same loop (longer: they need more)", fontsize=9)
    figure.tight_layout()
    figure.savefig(target, dpi=110)
    pyplot.close(figure)


def describe_machine() -> str:
    model = "unknown CPU"
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{len(os.sched_getaffinity(0))} cores of {model}, Python {platform.python_version()}"


def main() -> None:
    if not sys.platform.startswith("linux"):
        sys.exit("the comparison reads CPU time from /proc and uses epoll: it runs on Linux only. benchmarks/engine.py runs anywhere.")
    parser = argparse.ArgumentParser(description="sslconnector and its peers side by side")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rows, under two minutes")
    parser.add_argument("--rows", help="groups of echo, bulk, handshake, latency, memory, separated by commas; all unless given")
    parser.add_argument("--servers", help="names or parts of names, separated by commas; all unless given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, help="of each measurement")
    parser.add_argument("--connections", type=int, help="of the memory rows")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), help="directory for results.md, results.json and plots")
    arguments = parser.parse_args()
    default = "echo,handshake,latency,memory" if arguments.quick else "echo,bulk,handshake,latency,memory"
    groups = [group.strip() for group in (arguments.rows or default).split(",")]
    unknown = set(groups) - {*ROWS, "latency", "memory"}
    if unknown:
        parser.error(f"no such rows: {', '.join(sorted(unknown))}; there are echo, bulk, handshake, latency and memory")
    servers = list(SERVERS)
    if arguments.servers:
        wanted = [part.strip() for part in arguments.servers.split(",")]
        servers = [server for server in SERVERS if any(part in server.name for part in wanted)]
        if not servers:
            parser.error("no such servers; there are: " + "; ".join(server.name for server in SERVERS))
    quick = arguments.quick
    seconds = arguments.seconds or (0.15 if quick else 1.0)
    connections = arguments.connections or (300 if quick else 5000)
    results, rows = Results(), []
    with tempfile.TemporaryDirectory() as directory:
        workshop = Workshop(Path(directory))
        for group in groups:
            if group in ROWS:
                made = ROWS[group](quick)
                run_loads(workshop, servers, made, results, arguments.rounds, seconds)
                rows += made
            elif group == "latency":
                few = [server for server in servers if server.name in _IN_QUICK] if quick else servers
                rows.append(run_latency(workshop, few, results, arguments.rounds if not quick else 1, max(seconds, 1.0)))
            else:
                few = [server for server in servers if server.name in _IN_QUICK] if quick else servers
                rows += run_memory(workshop, few, results, connections, quick)
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = markdown(results, rows, arguments.rounds, seconds)
    (arguments.out / "results.md").write_text(text)
    content = {"machine": describe_machine(), "openssl": results.openssl, "rows": results.samples, "skipped": results.skipped}
    (arguments.out / "results.json").write_text(json.dumps(content, indent=1))
    for group in groups:
        plot(results, rows, group, arguments.out / f"{group}.png")
    print(text)
    print(f"written to {arguments.out}/")


# The slow groups of a quick run leave the others out.
_IN_QUICK = (OURS, "uvloop", "asyncio", "sslconnector on asyncio")

if __name__ == "__main__":
    main()
