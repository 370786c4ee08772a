"""How the cycles of a scheduled program are counted: loops, those in them, and how often they turn."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks" / "kernels"))
import bundles

PROGRAM = """\
LB: loop body
= control target key end

     0   :  { %s1 = smov 0 }
   0x1   :  {}
   0x2 LB: > { %s2 = sadd.s32 1, %s3 }
   0x3   :  {}
   0x4 LB: >> { %p4 = scmp.ge.s32.totalorder %s5, 16 /* loop exit test */ }
   0x5 PF: > { %s6 = smov 1 }
   0x6 LB: >> { %s7 = smov 2 }
   0x7   : >> { %s8 = smov 3 }
   0x8   : > { %s9 = smov 4 }
   0x9   :  { %s10 = smov 5 }
"""
"""Three bundles, and a loop of four with one of one bundle, 16 times, and one of two."""


def test_loops_are_read_with_their_depth():
    program = bundles.read_program(PROGRAM)
    assert [(loop.depth, loop.bundles, loop.trips) for loop in program.walk()] == [
        (0, 3, None),
        (1, 4, None),
        (2, 1, 16),
        (2, 2, None),
    ]


def test_every_bundle_counts_as_often_as_it_runs():
    program = bundles.read_program(PROGRAM)
    assert bundles.weighted(program, [10, 3]) == 3 + 10 * (4 + 16 * 1 + 3 * 2)
    assert bundles.weighted(program, [10, 3], once=0.1) == 3 + 10 * (4 + 1.6 * 1 + 3 * 2)


def test_another_program_than_expected_is_an_error():
    with pytest.raises(ValueError, match=r"3 trip counts for 2 loops: >4 x \?, >>1 x 16, >>2 x \?"):
        bundles.weighted(bundles.read_program(PROGRAM), [1, 2, 3])


def test_kernels_are_found_by_name(tmp_path):
    for name in (
        "17-paged_decode.1-02-schedule-analysis_final_bundles",
        "17-paged_decode.1-03-final_bundles",
    ):
        (tmp_path / f"{name}.txt").write_text(name)
    assert bundles.find_kernel(tmp_path, "paged_decode").endswith("03-final_bundles")
    with pytest.raises(FileNotFoundError, match="paged_prefill"):
        bundles.find_kernel(tmp_path, "paged_prefill")
