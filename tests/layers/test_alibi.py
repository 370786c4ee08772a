"""ALiBi slopes against transformers' MPT."""

from __future__ import annotations

import numpy as np
import pytest
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

from vllm_jax.layers.alibi import alibi_slopes


@pytest.mark.parametrize("bias_max", [8, 4, 16])
def test_slopes(bias_max):
    for heads in [*range(1, 41), 48, 56, 64, 71, 112, 128]:
        # The bias of the last-but-one of two keys is minus the slope.
        theirs = -build_mpt_alibi_tensor(heads, 2, bias_max)[:, 0, 0].numpy()
        ours = alibi_slopes(heads, bias_max)
        assert len(ours) == heads
        np.testing.assert_allclose(ours, theirs, rtol=2e-7)
        assert all(slope == np.float32(slope) for slope in ours)


def test_powers_of_two_are_exact():
    assert alibi_slopes(8) == tuple(2.0**-i for i in range(1, 9))
    assert alibi_slopes(1, 8) == (2.0**-8,)
