r"""Prompt families: the shipped ones obey the rules that they state, and an invalid folder is named in one line."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_pz.config.schema import GameConfig
from megatron_pz.roles.prompts import PromptFamily, available_families
from megatron_pz.roles.spans import MASK, InvalidMaskReason, SpanRules
from megatron_pz.runtime.errors import BadInput

FAMILIES = ["quote", "qwen3", "smollm"]
BRACES = r"Sets {1, 2}, {passage}, {masked_passage}, {0}, %s, $x and \mask{y}"


@pytest.fixture
def folder(tmp_path):
    """Return a complete and correct custom family."""
    (tmp_path / "generator.txt").write_text("G {passage} G\n")
    (tmp_path / "predictor.txt").write_text("P {masked_passage}\n\n")
    (tmp_path / "family.yaml").write_text("description: ours\nstop: ['}', end, no, 1e3]\nquote_words: 2\n")
    return tmp_path


def test_the_shipped_families_and_the_configured_default():
    assert available_families() == FAMILIES
    assert PromptFamily.load(GameConfig().prompt_family).name == "qwen3"


def test_the_quote_family_asks_as_it_was_measured():
    family = PromptFamily.load("quote")
    assert family.generator_prompt("A b.") == "Paragraph: A b.\nWords to mask:"
    assert family.predictor_prompt("A [mask].") == "Passage: A [mask].\nMasked words:"
    assert (family.stop, family.quote_words) == (("}", "\n"), 3)


@pytest.mark.parametrize("name", FAMILIES)
@given(passage=st.text() | st.just(BRACES))
def test_a_passage_stands_in_the_prompt_as_it_is(name, passage):
    family = PromptFamily.load(name)
    for prompt, template in (
        (family.generator_prompt(passage), family.generator_template),
        (family.predictor_prompt(passage), family.predictor_template),
    ):
        assert prompt.removeprefix(template[0]).removesuffix(template[1]) == passage


def test_the_base_model_is_told_where_the_answers_go():
    family = PromptFamily.load("qwen3")
    assert family.generator_prompt("A b.").endswith(r"\mask{}.")
    assert family.predictor_prompt("A [mask].").endswith(r"\boxed{}.")
    assert family.stop == ()  # braces are part of a chain of thought


def test_the_worked_examples_obey_the_rules_they_teach():
    family, policy = PromptFamily.load("smollm"), SpanRules(whole_words=True)
    given_masks = re.findall(r"Paragraph: (.*)\nWords to mask: \\mask\{(.*)\}\n", family.generator_template[0])
    given_answers = re.findall(r"Passage: (.*)\nMasked words: \\boxed\{(.*)\}\n", family.predictor_template[0])
    assert len(given_masks) == len(given_answers) == 2
    for passage, span in given_masks:
        assert policy.check(span, passage) == (span, InvalidMaskReason.OK)
    for (masked, answer), (passage, _) in zip(given_answers, given_masks, strict=True):
        assert masked.replace(MASK, answer) == passage


def test_a_folder_of_ones_own(folder):
    family = PromptFamily.load(str(folder))
    assert family.name == folder.name
    assert family.generator_prompt("x") == "G x G"
    assert family.predictor_prompt("x") == "P x\n"  # only the last newline belongs to the file
    assert (family.stop, family.quote_words) == (("}", "end", "no", "1e3"), 2)


@pytest.mark.parametrize("name", ["llama9", "", "../templates/nothing"])
def test_an_unknown_family_is_told_what_exists(name):
    with pytest.raises(BadInput, match=rf"{re.escape(repr(name))}.*quote, qwen3, smollm"):
        PromptFamily.load(name)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("generator.txt", "no place", r"generator\.txt names \{passage\} 0 times"),
        ("predictor.txt", "{masked_passage} {masked_passage}", r"\{masked_passage\} 2 times"),
        ("generator.txt", None, r"generator\.txt cannot be read"),
        ("family.yaml", None, r"family\.yaml cannot be read"),
        ("family.yaml", "stop: [", "not YAML"),
        ("family.yaml", "- stop", "must have the keys description, quote_words, stop"),
        ("family.yaml", "{description: d, stop: [], quote_word: 3}", "must have the keys"),
        ("family.yaml", "{description: d, stop: '}', quote_words: 3}", "stop in .* is '}'"),
        ("family.yaml", "{description: d, stop: [''], quote_words: 3}", "non-empty"),
        ("family.yaml", "{description: d, stop: [], quote_words: -1}", "quote_words in .* is -1"),
        ("family.yaml", "{description: d, stop: [], quote_words: true}", "quote_words in .* is true"),
        ("family.yaml", "{description: d, stop: [], quote_words: 012}", "quote_words in .* is 012; give .* decimal"),
        ("family.yaml", "{description: d, stop: [], quote_words: ~}", "quote_words in .* is None"),
        ("family.yaml", "{description: d, stop: [~], quote_words: 1}", "non-empty"),
    ],
)
def test_a_broken_folder_is_refused(folder, file, content, message):
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(BadInput, match=message):
        PromptFamily.load(str(folder))


def test_a_template_in_another_encoding_is_refused(folder):
    (folder / "generator.txt").write_bytes("Absätze {passage}".encode("latin-1"))
    with pytest.raises(BadInput, match=r"generator\.txt cannot be read"):
        PromptFamily.load(str(folder))
