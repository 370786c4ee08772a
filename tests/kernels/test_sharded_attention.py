"""Paged attention in ``shard_map`` over the heads: four devices give what one gives, without a collective."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CASES = [
    ("xla", "mixed", False),
    ("gpu", "mixed", False),
    ("tpu on_wait", "mixed", False),
    ("tpu eager", "mixed", False),
    ("tpu on_wait", "decode", False),
    ("xla", "mixed", True),
]


@pytest.fixture(scope="module")
def reports() -> dict[str, dict]:
    """Of a process with four CPU devices; this one has the one it began with."""
    program = Path(__file__).with_name("sharded_attention.py")
    done = subprocess.run(
        [sys.executable, str(program)], input=json.dumps(CASES), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", CASES[:-1], ids=lambda case: f"{case[0]}-{case[1]}")
def test_four_devices_agree_with_the_oracle(reports, case):
    report = reports[f"{case[0]} {case[1]}"]
    assert report["devices"] == 4
    assert report["error"] < 1e-5
    assert report["pages"], "each device writes the new keys of its own heads"
    assert not report["races"]


def test_slopes_on_the_wrong_device_are_found(reports):
    assert reports["xla mixed wrong"]["error"] > 1e-2
