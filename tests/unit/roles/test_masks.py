r"""Masks without a generator: passive strategies, cold-start examples, the fixed held-out set."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_pz.config.schema import GameConfig
from megatron_pz.roles.answers import last_command
from megatron_pz.roles.examples import generator_example, predictor_example, teaching_span
from megatron_pz.roles.held_out import held_out_masks
from megatron_pz.roles.prompts import PromptFamily
from megatron_pz.roles.spans import MASK, InvalidMaskReason, MaskedPassage, SpanRules
from megatron_pz.roles.strategies import (
    entropy_next_token,
    mask_strategy,
    passive_mask,
    random_next_token,
    random_span,
    words_after_the_first,
)
from megatron_pz.roles.words import content_words, names, repeated_words
from megatron_pz.wikitext.words import count_words

PASSAGE = "In 1848 Bern became the seat of the government. Today the government and the embassies in Bern employ many."
QUOTE, QWEN = PromptFamily.load("quote"), PromptFamily.load("qwen3")
ONE = SpanRules(whole_words=True, one_mask=True)
PASSAGES = st.lists(
    st.sampled_from(["the", "Bern", "Aare", "river", "is", "1848,", "f{x}", "\n", "(old)"]), max_size=20
)


def rng(seed: int = 0) -> random.Random:
    return random.Random(seed)


class TestRandomSpan:
    def test_lengths_are_those_of_spanbert(self):
        source, passage = rng(), " ".join(f"word{number}" for number in range(30))
        spans = (random_span(passage, SpanRules(whole_words=True), source).span for _ in range(5_000))
        lengths = [len(span.split()) for span in spans]
        assert set(lengths) == set(range(1, 11))
        assert sum(lengths) / len(lengths) == pytest.approx(3.8, abs=0.12)  # the paper's mean; standard error 0.037
        counts = Counter(lengths)
        assert counts[2] / counts[1] == pytest.approx(0.8, abs=0.1)  # standard error 0.034

    @given(PASSAGES.map(" ".join), st.integers(0, 9), st.booleans(), st.integers(0, 3))
    def test_the_span_obeys_the_policy(self, passage, seed, whole_words, max_words):
        policy = SpanRules(whole_words=whole_words, max_words=max_words)
        masked = random_span(passage, policy, rng(seed))
        if masked is None:
            assert content_words(passage) == [] or all(
                policy.check(word, passage)[1] is not InvalidMaskReason.OK for word in content_words(passage)
            )
        else:
            assert policy.check(masked.span, passage) == (masked.span, InvalidMaskReason.OK)
            assert masked.text.replace(MASK, masked.span) == passage
            assert "\n" not in masked.span

    def test_every_place_is_as_likely_as_another(self):
        passage, source = "one two three four", rng()
        spans = Counter(random_span(passage, SpanRules(max_words=1), source).span for _ in range(800))
        assert set(spans) == set(passage.split())
        assert min(spans.values()) > 150  # 200 expected, standard deviation 12

    def test_a_short_passage_still_gives_a_span(self):
        assert {random_span("Bern", ONE, rng(seed)).span for seed in range(20)} == {"Bern"}

    @pytest.mark.parametrize("passage", ["", "… – !", "is " * 8, "a literal [mask] here"])
    def test_nothing_to_mask(self, passage):
        assert random_span(passage, SpanRules(max_words=1), rng()) is None


class TestRandomNextToken:
    def test_the_predictor_sees_what_precedes_the_word_and_nothing_else(self):
        passage, source = "Bern, founded in 1191, is old.", rng()
        seen = {masked.text: masked.span for masked in (random_next_token(passage, source) for _ in range(200))}
        assert seen == {
            "Bern, [mask]": "founded",
            "Bern, founded [mask]": "in",
            "Bern, founded in [mask]": "1191",
            "Bern, founded in 1191, [mask]": "is",
            "Bern, founded in 1191, is [mask]": "old",
        }

    @pytest.mark.parametrize("passage", ["", "Bern.", "a literal [mask] here"])
    def test_nothing_to_mask(self, passage):
        assert random_next_token(passage, rng()) is None


class TestEntropyNextToken:
    PASSAGE = "One two three four five six"
    ENTROPIES = (0.5, 3.0, 1.0, 3.5, 2.0)
    """Of two, three, four, five and six."""

    @pytest.mark.parametrize(
        ("share", "hardest"), [(0.1, {"five"}), (0.2, {"five"}), (0.4, {"three", "five"}), (1.0, None)]
    )
    def test_only_the_least_certain_words_are_masked(self, share, hardest):
        source = rng()
        masks = [entropy_next_token(self.PASSAGE, self.ENTROPIES, share, source) for _ in range(100)]
        assert {mask.span for mask in masks} == (hardest or {"two", "three", "four", "five", "six"})
        assert all(mask.text == self.PASSAGE[: self.PASSAGE.index(mask.span)] + MASK for mask in masks)

    def test_equal_entropies_go_by_place(self):
        assert entropy_next_token("a b c", [1.0, 1.0], 0.5, rng()).span == "b"

    @pytest.mark.parametrize("passage", ["", "Alone", f"{MASK} b c"])
    def test_nothing_to_mask(self, passage):
        assert entropy_next_token(passage, [1.0] * len(words_after_the_first(passage)), 0.5, rng()) is None


def test_a_strategy_is_chosen_by_name():
    assert passive_mask("random_span", PASSAGE, ONE, rng(5)) == random_span(PASSAGE, ONE, rng(5))
    assert passive_mask("random_next_token", PASSAGE, ONE, rng(5)) == random_next_token(PASSAGE, rng(5))
    entropies = [float(place) for place, _ in enumerate(words_after_the_first(PASSAGE))]
    by_entropy = passive_mask("entropy_next_token", PASSAGE, ONE, rng(5), entropies, 0.5)
    assert by_entropy == entropy_next_token(PASSAGE, entropies, 0.5, rng(5))


def test_the_strategy_of_a_step():
    game = GameConfig(passive_warmup_iters=2, warmup_mask_strategy="random_next_token")
    assert [mask_strategy(step, game) for step in (1, 2, 3)] == ["random_next_token", "random_next_token", "active"]
    assert mask_strategy(1, GameConfig(mask_strategy="random_span")) == "random_span"


class TestWords:
    def test_content_repeated_and_names(self):
        assert content_words("The state's well-known Aare is in it.") == ["state's", "well-known", "Aare"]
        assert repeated_words(PASSAGE) == ["Bern", "government"]
        assert names("In Bern, Albert Einstein saw the École of Old Bern.") == [
            "Bern",
            "Albert Einstein",
            "École",
            "Old Bern",
        ]

    def test_other_scripts(self):
        assert content_words("हिन्दी भाषा, Москва") == ["हिन्दी", "भाषा", "Москва"]


class TestTeachingSpans:
    def test_repeated_words_come_as_often_as_asked(self):
        source = rng()
        always = Counter(teaching_span(PASSAGE, ONE, source, repeated_share=1.0) for _ in range(200))
        assert set(always) == {"Bern", "government"}
        never = Counter(teaching_span(PASSAGE, ONE, source, repeated_share=0.0) for _ in range(400))
        assert set(never) == set(content_words(PASSAGE))

    def test_a_kind_without_candidates_gives_way_to_content_words(self):
        assert teaching_span("the small river", ONE, rng(), repeated_share=1.0) in {"small", "river"}

    def test_the_policy_has_the_last_word(self):
        passage = "Bern " * 8 + "and the Aare"
        assert {teaching_span(passage, ONE, rng(seed), 1.0) for seed in range(20)} == {"Aare"}
        assert teaching_span("it is of the", ONE, rng(), 1.0) is None


class TestExamples:
    def test_a_generator_example_quotes_three_words_before_one_occurrence(self):
        source = rng()
        examples = {generator_example(PASSAGE, "government", QUOTE, ONE, source) for _ in range(30)}
        assert examples == {
            (f"Paragraph: {PASSAGE}\nWords to mask:", r" seat of the \mask{government}"),
            (f"Paragraph: {PASSAGE}\nWords to mask:", r" government. Today the \mask{government}"),
        }

    def test_a_predictor_example_quotes_three_words_before_the_mask(self):
        masked = SpanRules().apply("government", PASSAGE, rng())
        prompt, response = predictor_example(masked, QUOTE)
        assert prompt == f"Passage: {PASSAGE.replace('government', '[mask]')}\nMasked words:"
        assert response == r" seat of the \boxed{government}"

    def test_fewer_words_before_the_span_are_quoted_as_they_are(self):
        assert generator_example("Old Bern sleeps.", "Bern", QUOTE, ONE, rng())[1] == r" Old \mask{Bern}"
        assert predictor_example(MaskedPassage("[mask] sleeps.", "Bern", 1, 1), QUOTE)[1] == r" \boxed{Bern}"

    def test_a_family_without_quotes(self):
        assert generator_example(PASSAGE, "Today", QWEN, ONE, rng())[1] == r" \mask{Today}"

    def test_a_quote_never_ends_the_response(self):
        assert generator_example("Sets {1, 2} of Bern", "Bern", QUOTE, ONE, rng())[1] == r" of \mask{Bern}"

    @given(PASSAGES.map(" ".join), st.integers(0, 9))
    def test_an_example_is_what_the_reader_accepts(self, passage, seed):
        span = teaching_span(passage, ONE, rng(seed), 0.5)
        if span is None:
            return
        masked = ONE.apply(span, passage, rng(seed))
        responses = {
            "mask": generator_example(passage, span, QUOTE, ONE, rng(seed))[1],
            "boxed": predictor_example(masked, QUOTE)[1],
        }
        for command, response in responses.items():
            assert last_command(response, command) == span
            assert response.find("}") == len(response) - 1


class TestHeldOut:
    OTHERS = ("It is not so.", "The Aare flows. The Aare flows on.", "A literal [mask] [mask] twice, twice.")

    def test_one_occurrence_of_a_repeated_word(self):
        (made,) = held_out_masks([PASSAGE], "repeated")
        assert made.masked.span in {"Bern", "government"}
        assert (made.masked.occurrences, made.masked.replaced, made.masked.text.count(MASK)) == (2, 1, 1)
        assert made.masked.span in made.masked.text
        assert made.masked.text.replace(MASK, made.masked.span) == PASSAGE

    def test_a_word_that_occurs_once(self):
        (made,) = held_out_masks([PASSAGE], "once")
        assert made.masked.span in {"1848", "became", "seat", "Today", "embassies", "employ"}
        assert made.masked.span not in made.masked.text
        assert made.masked.occurrences == 1

    @pytest.mark.parametrize("kind", ["repeated", "once"])
    def test_a_passage_keeps_its_mask_in_any_company(self, kind):
        alone = [made.masked for made in held_out_masks([PASSAGE], kind)]
        among = held_out_masks([*self.OTHERS, PASSAGE], kind)
        assert [made.masked for made in among if made.passage == 3] == alone
        assert {made.passage for made in among} <= {1, 3}  # the first has no content word, the third has a literal mask

    def test_the_seed_changes_the_set(self):
        assert len({held_out_masks([PASSAGE], "once", seed)[0].masked.span for seed in range(30)}) > 3

    def test_a_word_that_occurs_eight_times_is_left_out(self):
        assert held_out_masks(["Bern " * 8], "repeated") == []
        assert len(held_out_masks(["Bern " * 7], "repeated")) == 1

    def test_the_choice_is_the_same_for_ever(self):
        """The expected masks were recorded when the set was made; results of different releases are compared on it."""
        assert [held_out_masks([PASSAGE], kind)[0].masked.span for kind in ("repeated", "once")] == [
            "government",
            "Today",
        ]


CHINESE = "长江是中国第一大河，全长6300公里。发源于青藏高原，流经多个省区，最后注入东海。"


def test_next_token_masks_hide_one_word_of_a_script_without_spaces() -> None:
    for seed in range(30):
        masked = random_next_token(CHINESE, random.Random(seed))
        assert masked is not None
        assert len(masked.span) == 1 or masked.span == "6300"
        assert CHINESE.startswith(masked.text.removesuffix(MASK) + masked.span)


def test_random_spans_have_up_to_ten_words_of_a_script_without_spaces() -> None:
    lengths = set()
    for seed in range(60):
        masked = random_span(CHINESE, SpanRules(whole_words=True), random.Random(seed))
        assert masked is not None
        lengths.add(count_words(masked.span))
    assert lengths == set(range(1, 11))


@pytest.mark.parametrize(
    ("passage", "words"),
    [
        (CHINESE[:9], ["长江", "是中", "国第", "一大"]),
        ("東京スカイツリーは高い東京タワー。", ["東京", "スカイツリー", "東京", "タワー"]),
        ("กรุงเทพมหานคร", ["กรุง", "เทพม", "หานค"]),
    ],
)
def test_content_words_of_scripts_without_spaces(passage: str, words: list[str]) -> None:
    assert content_words(passage) == words
