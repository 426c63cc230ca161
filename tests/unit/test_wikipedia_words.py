from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from megatron_pz.wikipedia.words import count_words


@given(st.lists(st.text(st.sampled_from(" \nabé東𝒳\ud800"), max_size=12), max_size=6))
def test_words_are_what_splitting_gives(texts: list[str]) -> None:
    assert count_words(texts) == [len(text.split()) for text in texts]
