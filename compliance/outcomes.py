"""Runs a foreign suite: one of the modules here, in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import unittest
from pathlib import Path

import pytest

__all__ = ["ROOT", "outcomes_of", "run_suite"]

ROOT = Path(__file__).parent.parent


def run_suite(suite: unittest.TestSuite) -> dict[str, str]:
    """By test (class and method) the text of its failure, empty for what passed or was skipped."""
    outcomes: dict[str, str] = {}

    def name(test: unittest.TestCase) -> str:
        return ".".join(test.id().split(".")[-2:])

    class Result(unittest.TestResult):
        def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802
            super().startTest(test)
            outcomes[name(test)] = ""

    result = Result()
    suite.run(result)
    for test, text in (*result.errors, *result.failures):
        outcomes[name(test)] = text
    return outcomes


def outcomes_of(runner: str, suite: str, *arguments: str) -> dict[str, str]:
    """What ``compliance.<runner>`` prints, that is what ``run_suite`` gives. Skips where Python lacks ``suite``."""
    try:
        found = importlib.util.find_spec(suite)
    except ModuleNotFoundError:
        found = None
    if found is None:
        pytest.skip(f"this distribution of Python leaves out its own tests ({suite})")
    command = [sys.executable, "-m", f"compliance.{runner}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    outcomes: dict[str, str] = json.loads(done.stdout)
    return outcomes
