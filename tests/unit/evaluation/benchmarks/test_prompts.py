"""The prompts that a model is asked, and the choice of questions."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from megatron_pz.evaluation.benchmarks.prompts import BenchmarkSettings, BenchmarkTokenizer, load_questions, prepare
from megatron_pz.runtime.errors import BadInput
from tests.support.benchmark_files import SUMS, write_gsm8k, write_mmlu_pro

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def chat_dir(tiny_tokenizer_dir: Path, tmp_path: Path) -> Path:
    """Return the tiny tokenizer with a chat template."""
    folder = Path(shutil.copytree(tiny_tokenizer_dir, tmp_path / "tokenizer"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def test_a_chat_is_the_models_template_with_its_control_tokens(chat_dir: Path, tmp_path: Path) -> None:
    settings = BenchmarkSettings("general_reasoner")
    (found,) = prepare(
        load_questions(["gsm8k"], write_gsm8k(tmp_path), settings), BenchmarkTokenizer(chat_dir), settings
    )
    text = found.prompts[0].text
    assert found.chat and text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert f"<|im_start|>user\n{SUMS[0][0]}" in text
    tokenizer = AutoTokenizer.from_pretrained(chat_dir)
    control = tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert found.prompts[0].token_ids.count(control) == text.count("<|im_start|>")
    assert tokenizer.decode(found.prompts[0].token_ids) == text


def test_a_plain_completion_by_choice(chat_dir: Path, tmp_path: Path) -> None:
    settings = BenchmarkSettings("general_reasoner", prompt_format="plain", max_tokens=40)
    (found,) = prepare(
        load_questions(["gsm8k"], write_gsm8k(tmp_path), settings), BenchmarkTokenizer(chat_dir), settings
    )
    assert not found.chat and "<|im_start|>" not in found.prompts[0].text and SUMS[0][0] in found.prompts[0].text
    assert found.max_tokens == 40
    assert found.longest() == max(len(prompt.token_ids) for prompt in found.prompts) + 40


def test_a_model_without_a_chat_template_is_refused_in_one_line(tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    settings = BenchmarkSettings("general_reasoner", prompt_format="chat")
    loaded = load_questions(["gsm8k"], write_gsm8k(tmp_path), settings)
    with pytest.raises(BadInput, match=r"the tokenizer has no chat template.*use --prompt-format plain"):
        prepare(loaded, BenchmarkTokenizer(tiny_tokenizer_dir), settings)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% if %}", "refuses the prompt"),
        ("{{ messages + 1 }}", "refuses the prompt: can only concatenate list"),
        ("{{ 1 / 0 }}", "refuses the prompt: division by zero"),
        ("{# nothing #}", "does not show the user's text"),
        ("{{ messages[0].content }}", "does not show the user's text"),
    ],
)
def test_a_chat_template_that_fails_or_hides_the_question_is_refused(
    template: str, words: str, chat_dir: Path, tmp_path: Path
) -> None:
    tokenizer = BenchmarkTokenizer(chat_dir)
    tokenizer.tokenizer.chat_template = template
    settings = BenchmarkSettings("general_reasoner")
    with pytest.raises(BadInput, match=words):
        prepare(load_questions(["gsm8k"], write_gsm8k(tmp_path), settings), tokenizer, settings)


def test_a_slice_is_fixed_and_in_the_order_of_the_file(tmp_path: Path) -> None:
    data = write_gsm8k(write_mmlu_pro(tmp_path))

    def chosen(**settings: int) -> list[list[str]]:
        loaded = load_questions(["gsm8k", "mmlu_pro"], data, BenchmarkSettings("general_reasoner", **settings))
        assert [each.of for each in loaded] == [6, 5]
        return [[question.id for question in each.questions] for each in loaded]

    whole, some = chosen(), chosen(questions=3)
    assert some == chosen(questions=3) and [len(each) for each in some] == [3, 3]
    assert all([each for each in all_of if each in few] == few for few, all_of in zip(some, whole, strict=True))
    assert set(chosen(questions=2)[0]) < set(some[0]), "a larger slice contains the smaller one"
    assert len({tuple(map(tuple, chosen(questions=3, seed=seed))) for seed in range(5)}) > 1
    assert chosen(questions=100) == whole


@pytest.mark.parametrize(
    ("recipe", "names", "complaint"),
    [
        ("unknown", ["gsm8k"], "no recipe 'unknown'"),
        ("general_reasoner", ["gsm9k"], "no benchmark 'gsm9k'"),
        ("general_reasoner", ["gsm8k", "gsm8k"], "name each set once"),
        ("general_reasoner", ["mmlu_pro"], "no folder with the files of mmlu_pro"),
    ],
)
def test_what_cannot_be_asked_is_named(tmp_path: Path, recipe: str, names: list[str], complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        load_questions(names, write_gsm8k(tmp_path), BenchmarkSettings(recipe))
