import numpy as np
import pytest

from vllm_jax.errors import InvalidRequestError
from vllm_jax.sampling.mask import fill_row, full_row, pack_ids, prepare_constraints
from vllm_jax.sampling_params import SamplingParams


def unpack(row: np.ndarray, vocab_size: int) -> set[int]:
    bits = np.unpackbits(row.astype("<u4").view(np.uint8), bitorder="little")
    assert not bits[vocab_size:].any()
    return set(np.flatnonzero(bits).tolist())


def next_tokens(params, output, *, vocab=40, eos=(), encode=None, num_output=None) -> set[int]:
    constraints = prepare_constraints(params, vocab_size=vocab, eos_token_ids=eos, encode=encode)
    assert constraints is not None
    row = np.zeros((vocab + 31) // 32, np.uint32)
    fill_row(row, constraints, len(output) if num_output is None else num_output, output)
    return unpack(row, vocab)


@pytest.mark.parametrize("vocab", [1, 31, 32, 33, 64, 100, 50277])
def test_packing(vocab):
    assert unpack(full_row(vocab), vocab) == set(range(vocab))
    ids = set(np.random.default_rng(vocab).integers(0, vocab, 50).tolist())
    assert unpack(pack_ids(sorted(ids), vocab), vocab) == ids
    assert unpack(pack_ids([], vocab), vocab) == set()


def test_nothing_applies():
    params = SamplingParams(logit_bias={3: 1}, stop_token_ids=[4], presence_penalty=1)
    assert prepare_constraints(params, vocab_size=10, eos_token_ids=[1], encode=None) is None


def test_allowed_token_ids():
    assert next_tokens(SamplingParams(allowed_token_ids=[3, 31, 32, 39]), []) == {3, 31, 32, 39}


def test_min_tokens_bans_eos_and_stop_ids_until_reached():
    params = SamplingParams(min_tokens=2, stop_token_ids=[7], ignore_eos=True)
    everything = set(range(40))
    for output, expected in (
        ([], everything - {1, 2, 7}),
        ([5], everything - {1, 2, 7}),
        ([5, 5], everything),
        ([5, 5, 5], everything),
    ):
        assert next_tokens(params, output, eos=(1, 2)) == expected
    # Tokens that the host has not read yet count, too.
    assert next_tokens(params, [], eos=(1, 2), num_output=2) == everything


WORDS = {
    "cat": [10],
    " cat": [11],
    "black cat": [12, 11],
    " black cat": [13, 11],
    "aaa": [20, 20, 20],
    " aaa": [21, 20, 20],
    "rare": [30, 99],
    " rare": [31, 99],
}


@pytest.mark.parametrize(
    ("words", "output", "banned"),
    [
        (["cat"], [], {10, 11}),
        (["cat"], [10, 12], {10, 11}),
        ([" cat"], [], {11}),
        (["black cat"], [], set()),
        (["black cat"], [12], {11}),
        (["black cat"], [5, 13], {11}),
        (["black cat"], [12, 5], set()),
        (["aaa"], [20], set()),
        (["aaa"], [20, 20], {20}),
        (["aaa"], [4, 21, 20], {20}),
        (["aaa", "black cat", "cat"], [20, 20, 12], {10, 11}),
        (["rare"], [30], set()),  # an id that the model does not have cannot be generated
    ],
)
def test_bad_words(words, output, banned):
    got = next_tokens(SamplingParams(bad_words=words), output, encode=WORDS.__getitem__)
    assert got == set(range(40)) - banned


def test_bad_words_against_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(200):
        sequences = {str(i): rng.integers(0, 4, rng.integers(1, 4)).tolist() for i in range(3)}
        table = sequences | {" " + k: v for k, v in sequences.items()}
        output = rng.integers(0, 4, rng.integers(0, 6)).tolist()
        expected = {
            token
            for token in range(4)
            if not any(([*output, token])[-len(s) :] == s for s in sequences.values())
        }
        try:
            got = next_tokens(
                SamplingParams(bad_words=list(sequences)), output, vocab=4, encode=table.__getitem__
            )
        except InvalidRequestError:
            assert {s[0] for s in sequences.values() if len(s) == 1} == set(range(4))
        else:
            assert got == (expected or set(range(4)))


def test_everything_together_and_bans_that_give_way():
    params = SamplingParams(allowed_token_ids=[1, 10, 20], bad_words=["cat"], min_tokens=1)
    assert next_tokens(params, [], eos=[1], encode=WORDS.__getitem__) == {20}
    assert next_tokens(params, [20], eos=[1], encode=WORDS.__getitem__) == {1, 20}
    only = SamplingParams(allowed_token_ids=[20], bad_words=["aaa"])
    assert next_tokens(only, [20, 20], encode=WORDS.__getitem__) == {20}


@pytest.mark.parametrize(
    ("params", "field"),
    [
        (SamplingParams(allowed_token_ids=[1, 7], min_tokens=1, stop_token_ids=[7]), "min_tokens"),
        (SamplingParams(allowed_token_ids=[10, 11], bad_words=["cat"]), "bad_words"),
    ],
)
def test_contradictions_are_refused(params, field):
    with pytest.raises(InvalidRequestError) as error:
        prepare_constraints(params, vocab_size=40, eos_token_ids=[1], encode=WORDS.__getitem__)
    assert error.value.param == field


def test_bad_words_need_a_tokenizer():
    with pytest.raises(InvalidRequestError, match="tokenizer"):
        prepare_constraints(SamplingParams(bad_words=["a"]), vocab_size=9, eos_token_ids=[], encode=None)
