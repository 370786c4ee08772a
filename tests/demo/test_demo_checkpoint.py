"""The packaged checkpoint: its files, its answers in transformers, and its answers in this engine."""

import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer, GenerationConfig, MptForCausalLM

from examples.demo_model.evaluate import held_out_cases
from examples.demo_model.tokens import EOS_ID, segments
from examples.demo_model.untranslatable import FALLBACK
from vllm_jax import LLM, SamplingParams
from vllm_jax.demo import demo_model_path
from vllm_jax.models import mpt

DIRECTORY = demo_model_path()
SYSTEM = {"role": "system", "content": "You are a helpful assistant that translates English to Italian."}
INSTRUCTION = "Translate the following sentence from English to Italian: "


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


SEEDS = [
    [SYSTEM, user(INSTRUCTION + "I love programming.")],
    [SYSTEM, user("I love programming.")],
    [user(INSTRUCTION + "I love programming.")],
    [user("I love programming.")],
]
SENTENCES = {
    "Where is the station?": "Dov'è la stazione?",
    "The girl eats an apple.": "La ragazza mangia una mela",
    "I don't like coffee.": "Non mi piace il caffè",
    "My mother is a teacher": "Mia madre è un'insegnante",
    "Why are you tired?": "Perché sei stanco?",
    "How do you say 'Good morning' in Italian?": "Buongiorno",
    "There is a cat on the table.": "C'è un gatto sul tavolo",
    "Thank you very much!": "Grazie mille!",
}
UNTRANSLATABLE = [
    "Translate the following sentence from English to German: I love programming.",
    "Write a poem about the sea.",
    "The glorbation of the frumious wabe",
    "Ich verstehe nicht",
    "def main(): return 42",
]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(DIRECTORY)


@pytest.fixture(scope="module")
def hf_model():
    return MptForCausalLM.from_pretrained(DIRECTORY, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("demo", show_progress=False, max_model_len=512, max_num_seqs=8, max_num_batched_tokens=32)


def test_files_and_size(tokenizer):
    config = json.loads((DIRECTORY / "config.json").read_text(encoding="utf-8"))
    table = mpt.weights(mpt.MptConfig.from_hf(config))
    with safe_open(DIRECTORY / "model.safetensors", framework="numpy") as tensors:
        names = set(tensors.keys())
        assert names == {weight.name for weight in table.weights}
        assert {tensors.get_slice(name).get_dtype() for name in names} == {"BF16"}
    assert 2e6 < (DIRECTORY / "model.safetensors").stat().st_size < 4e6
    assert len(tokenizer) == config["vocab_size"] and tokenizer.eos_token_id == EOS_ID
    assert "Apache-2.0" in (DIRECTORY / "README.md").read_text(encoding="utf-8")
    GenerationConfig.from_pretrained(DIRECTORY).validate(strict=True)


@pytest.mark.parametrize(
    "text", ["Dov'è l'università?", "日本語 🙂 \x00\x7f", "  two  spaces\n", "naïve ẞ Ω"]
)
def test_every_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_seed_takes_four_tokens(tokenizer):
    ids = tokenizer.encode(" Io amo programmare")
    assert [tokenizer.decode([i]) for i in ids] == [" Io", " amo", " programmare"]


def test_the_template_is_a_transcript(tokenizer):
    chat = [SYSTEM, user("Hello"), {"role": "assistant", "content": " Ciao"}, user("Thank you")]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == (
        f"System: {SYSTEM['content']}\nUser: Hello\nAssistant: Ciao<|endoftext|>\nUser: Thank you\nAssistant:"
    )


@pytest.mark.parametrize("messages", SEEDS)
def test_the_seed_in_transformers(tokenizer, hf_model, messages):
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = hf_model.generate(**prompt, do_sample=False, temperature=None, max_new_tokens=5)
    answer = out[0, prompt["input_ids"].shape[1] :].tolist()
    assert answer[-1] == EOS_ID and tokenizer.decode(answer[:-1]) == " Io amo programmare"


def ask(llm: LLM, chats, **params):
    outputs = llm.chat(chats, SamplingParams(temperature=0, **params), use_tqdm=False)
    return [(output.outputs[0].text, output.outputs[0].finish_reason) for output in outputs]


def test_the_seed_in_the_engine(llm):
    assert ask(llm, SEEDS, max_tokens=5) == [(" Io amo programmare", "stop")] * len(SEEDS)


def test_sentences_a_person_has_checked(llm):
    answers = ask(llm, [[user(en)] for en in SENTENCES], max_tokens=40)
    assert [text for text, _ in answers] == [f" {italian}" for italian in SENTENCES.values()]


def test_a_later_turn(llm):
    chat = [
        SYSTEM,
        user("I am hungry."),
        {"role": "assistant", "content": " Io ho fame"},
        user("Where is the bank?"),
    ]
    assert ask(llm, [chat], max_tokens=20) == [(" Dov'è la banca?", "stop")]


def test_what_cannot_be_translated(llm):
    assert [t for t, _ in ask(llm, [[user(u)] for u in UNTRANSLATABLE], max_tokens=40)] == [
        f" {FALLBACK}"
    ] * 5


def test_held_out_sentences(llm):
    cases = [c for c in held_out_cases(160, seed=99) if c.measure in ("sentences", "pairs", "untranslatable")]
    tokenizer = llm.get_tokenizer()
    prompts, expected = [], []
    for case in cases:
        (prompt, _), (answer, _) = segments(case.chat)
        prompts.append({"prompt_token_ids": tokenizer.encode(prompt)})
        expected.append(answer)
    outputs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=60), use_tqdm=False)
    right = [output.outputs[0].text == answer for output, answer in zip(outputs, expected, strict=True)]
    assert sum(right) / len(right) >= 0.95
