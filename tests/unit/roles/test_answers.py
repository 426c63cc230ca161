r"""Reading commands from responses: hand-worked cases, and a slow second implementation for random ones."""

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_pz.roles.answers import last_command, normalize_answer


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{Zermatt}.", "Zermatt"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{a{b{c}d}e} }", "a{b{c}d}e"),
        (r"first \boxed{Bern}, no: \boxed{Basel}", "Basel"),
        (r"\boxed{Bern} then \boxed{Bas", "Bern"),
        (r"\boxed{Bern} then \boxed{Ba{s}", "Bern"),
        (r"\boxed{open \boxed{Bern}", "Bern"),
        (r"\boxed{\boxed{Bern}}", "Bern"),
        (r"} \boxed{Bern}", "Bern"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ 1 \right.}", r"\left\{ 1 \right."),
        (r"\boxed{}", ""),
        ("\\boxed{two\nlines}", "two\nlines"),
        (r"\boxed {Bern}", None),
        (r"\boxedx{Bern}", None),
        (r"\mask{Bern}", None),
        (r"\boxed{Bern", None),
        ("", None),
    ],
)
def test_last_balanced_command(text, content):
    assert last_command(text, "boxed") == content


def test_the_commands_do_not_mix():
    assert last_command(r"\mask{seat} of \boxed{government}", "mask") == "seat"


def read_by_counting(text: str) -> str | None:
    """Apply the same rule to one command at a time, from the last: scan until its brace closes."""
    text = text.replace("\\{", "\0\1").replace("\\}", "\0\2")
    begin = text.rfind("\\mask{")
    while begin >= 0:
        depth = 0
        for end in range(begin + len("\\mask"), len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if depth == 0:
                content = text[begin + len("\\mask{") : end]
                return content.replace("\0\1", "\\{").replace("\0\2", "\\}")
        begin = text.rfind("\\mask{", 0, begin)
    return None


@given(st.lists(st.sampled_from(["\\mask{", "{", "}", "\\{", "\\}", "a", " "]), max_size=14).map("".join))
def test_agrees_with_a_reader_that_counts_braces(text):
    assert last_command(text, "mask") == read_by_counting(text)


def test_a_response_stuck_on_the_command_is_read_in_one_pass():
    text = "\\boxed{Bern}" + "\\boxed{" * 20_000
    start = time.process_time()
    assert last_command(text, "boxed") == "Bern"
    assert time.process_time() - start < 1.0  # reading each open command to the end takes minutes


def test_normalisations():
    decomposed = unicodedata.normalize("NFD", " Café\n")
    assert normalize_answer(decomposed, "strip_nfc") == "Café"
    assert normalize_answer(decomposed, "casefold") == "café"
    assert normalize_answer(decomposed, "none") == decomposed
    assert normalize_answer("Straße", "casefold") == normalize_answer("STRASSE", "casefold")
    assert normalize_answer("a  b", "strip_nfc") == "a  b"


@given(st.text(), st.sampled_from(["strip_nfc", "casefold", "none"]))
def test_normalising_twice_changes_nothing_more(text, normalization):
    once = normalize_answer(text, normalization)
    assert normalize_answer(once, normalization) == once
