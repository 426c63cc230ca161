"""Span policies, compared with occurrences counted by hand."""

import random
import re
import unicodedata
from collections import Counter

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from megatron_pz.config.schema import GameConfig
from megatron_pz.roles.spans import MASK, InvalidMaskReason, SpanRules, is_subword
from megatron_pz.roles.words import same_word
from megatron_pz.runtime.errors import BadInput

DEFAULT = SpanRules()
WORDS = SpanRules(whole_words=True)
MATTERHORN = (
    "The Matterhorn stands above Zermatt at an elevation of 4,478 m.\nIt was first climbed\nin 1865 from Zermatt."
)
LETTERS = st.text("ab é\u0301[]\n-", max_size=6)


def fault(span: str | None, passage: str, policy: SpanRules = DEFAULT) -> InvalidMaskReason:
    return policy.check(span, passage)[1]


def rng() -> random.Random:
    return random.Random(0)


class TestFromConfig:
    def test_the_three_policies_of_the_paper(self):
        assert SpanRules.from_config(GameConfig(span_policy="default")) == SpanRules()
        assert SpanRules.from_config(GameConfig(span_policy="one_mask")) == SpanRules(one_mask=True)
        assert SpanRules.from_config(GameConfig(span_policy="words")) == SpanRules(whole_words=True)

    def test_the_fields_go_with_any_policy(self):
        game = GameConfig(
            span_policy="one_mask",
            whole_words=True,
            max_span_occurrences=3,
            max_span_words=6,
            leak_guard=True,
            answer_normalization="none",
        )
        assert SpanRules.from_config(game) == SpanRules(
            whole_words=True, one_mask=True, max_occurrences=3, max_words=6, leak_guard=True, normalization="none"
        )

    def test_bounds_that_no_span_can_meet_are_refused(self):
        with pytest.raises(BadInput, match="max_span_occurrences is 1"):
            SpanRules.from_config(GameConfig(max_span_occurrences=1))
        with pytest.raises(BadInput, match="max_span_words is -1"):
            SpanRules.from_config(GameConfig(max_span_words=-1))


class TestOccurrences:
    def test_left_to_right_without_overlap(self):
        assert DEFAULT.occurrences("aa", "aaaaa") == [0, 2]

    def test_whole_words_leave_longer_words_alone(self):
        assert DEFAULT.occurrences("art", "art, party, art") == [0, 6, 12]
        assert WORDS.occurrences("art", "art, party, art") == [0, 12]

    def test_a_refused_hit_does_not_hide_an_overlapping_one(self):
        assert WORDS.occurrences("a a", "xa a a") == [3]

    @pytest.mark.parametrize(
        ("span", "passage"),
        [
            ("cole", "école"),  # a Latin letter outside ASCII
            ("Моск", "Москва"),
            ("186", "1865"),
            ("H2", "H2O"),
            ("हिन्द", "हिन्दी"),  # followed by a combining vowel sign, which is not a letter
        ],
    )
    def test_word_boundaries_of_other_scripts_and_digits(self, span, passage):
        assert fault(span, passage) is InvalidMaskReason.OK
        assert fault(span, passage, WORDS) is InvalidMaskReason.SUBWORD

    def test_hyphens_apostrophes_and_underscores_end_a_word(self):
        assert WORDS.occurrences("well", "well-known, well's, well_known") == [0, 12, 20]

    def test_punctuation_at_the_edge_of_a_span_cuts_no_word(self):
        assert WORDS.occurrences("(born 1879", "Einstein (born 1879) and") == [9]


class TestCheck:
    def test_a_valid_span_comes_back_stripped(self):
        assert DEFAULT.check("  Zermatt\n", MATTERHORN) == ("Zermatt", InvalidMaskReason.OK)

    def test_no_command_and_empty(self):
        assert fault(None, MATTERHORN) is InvalidMaskReason.NO_COMMAND
        assert fault("", MATTERHORN) is InvalidMaskReason.EMPTY
        assert fault(" \n\t", MATTERHORN) is InvalidMaskReason.EMPTY

    def test_elevate_is_not_elevation(self):
        assert fault("elevation", MATTERHORN) is InvalidMaskReason.OK
        assert fault("elevate", MATTERHORN) is InvalidMaskReason.ABSENT

    def test_case_counts(self):
        assert fault("zermatt", MATTERHORN) is InvalidMaskReason.ABSENT
        assert fault("zermatt", MATTERHORN, SpanRules(normalization="casefold")) is InvalidMaskReason.ABSENT

    def test_a_subword_is_fine_under_default_and_refused_under_words(self):
        assert DEFAULT.check("levat", MATTERHORN) == ("levat", InvalidMaskReason.OK)
        assert WORDS.check("levat", MATTERHORN) == (None, InvalidMaskReason.SUBWORD)

    def test_punctuation_alone_is_no_word(self):
        assert fault(".", "A. B", DEFAULT) is InvalidMaskReason.OK
        assert fault(".", "A. B", WORDS) is InvalidMaskReason.SUBWORD

    def test_seven_occurrences_are_fine_and_eight_too_many(self):
        assert fault("is", "is " * 7) is InvalidMaskReason.OK
        assert fault("is", "is " * 8) is InvalidMaskReason.TOO_OFTEN
        assert fault("is", "is " * 2, SpanRules(max_occurrences=2)) is InvalidMaskReason.TOO_OFTEN

    def test_hits_inside_words_count_under_default_only(self):
        passage = "is this " * 4
        assert fault("is", passage) is InvalidMaskReason.TOO_OFTEN
        assert fault("is", passage, WORDS) is InvalidMaskReason.OK

    def test_longest_span(self):
        assert fault("stands above Zermatt", MATTERHORN, SpanRules(max_words=3)) is InvalidMaskReason.OK
        assert fault("stands above Zermatt at", MATTERHORN, SpanRules(max_words=3)) is InvalidMaskReason.TOO_LONG

    def test_a_line_break_inside_a_span_must_be_written_as_it_stands(self):
        assert DEFAULT.check("climbed\nin 1865", MATTERHORN) == ("climbed\nin 1865", InvalidMaskReason.OK)
        assert fault("climbed in 1865", MATTERHORN) is InvalidMaskReason.ABSENT
        assert "It was first [mask] from Zermatt." in DEFAULT.apply("climbed\nin 1865", MATTERHORN, rng()).text

    def test_composed_and_decomposed_characters_are_the_same(self):
        composed, decomposed = "Le Café de Flore", unicodedata.normalize("NFD", "Le Café de Flore")
        assert composed != decomposed
        for span in ("Café", unicodedata.normalize("NFD", "Café")):
            for passage in (composed, decomposed):
                assert DEFAULT.check(span, passage) == ("Café", InvalidMaskReason.OK)
                assert DEFAULT.apply(span, passage, rng()).text == "Le [mask] de Flore"

    def test_a_letter_is_not_taken_out_from_under_its_accent(self):
        assert fault("Cafe", unicodedata.normalize("NFD", "Café")) is InvalidMaskReason.ABSENT

    def test_no_normalisation_compares_code_points_and_white_space(self):
        bare = SpanRules(normalization="none")
        assert fault("Café", unicodedata.normalize("NFD", "Le Café"), bare) is InvalidMaskReason.ABSENT
        assert bare.check(" Café", "Le Café") == (" Café", InvalidMaskReason.OK)
        assert fault("Café ", "Le Café", bare) is InvalidMaskReason.ABSENT

    def test_a_passage_with_a_mask_of_its_own_is_not_played(self):
        passage = "BERT predicts a [mask] token."
        assert not DEFAULT.is_maskable(passage)
        assert DEFAULT.is_maskable("BERT predicts a [MASK] token.")
        assert DEFAULT.check("token", passage) == (None, InvalidMaskReason.UNPLAYABLE)


class TestLeakGuard:
    GUARD = SpanRules(whole_words=True, leak_guard=True)

    @pytest.mark.parametrize("rest", ["Elevation matters.", "Other elevations.", "ELEVATION"])
    def test_another_case_or_inflection_gives_the_span_away(self, rest):
        passage = f"A high elevation. {rest}"
        assert fault("elevation", passage, self.GUARD) is InvalidMaskReason.LEAK
        assert fault("elevation", passage, WORDS) is InvalidMaskReason.OK

    def test_several_words_must_stand_in_a_row(self):
        assert fault("ice sheet", "An ice sheet. Ice sheets melt.", self.GUARD) is InvalidMaskReason.LEAK
        assert fault("ice sheet", "An ice sheet. Ice covers sheets.", self.GUARD) is InvalidMaskReason.OK

    def test_the_hole_of_a_mask_does_not_join_its_neighbours(self):
        assert fault("a b", "A a b b", self.GUARD) is InvalidMaskReason.OK

    def test_exact_repeats_are_not_a_leak(self):
        one = SpanRules(one_mask=True, leak_guard=True)
        assert fault("Zermatt", MATTERHORN, one) is InvalidMaskReason.OK

    @pytest.mark.parametrize(
        ("first", "second", "same"),
        [
            ("elevate", "Elevated", True),
            ("elevating", "elevates", True),
            ("cities", "city", True),
            ("running", "runs", True),
            ("studied", "study", True),
            ("boxes", "box", True),
            ("Britain’s", "Britain", True),
            ("elevate", "elevation", False),
            ("king", "kin", False),
            ("red", "ring", False),
            ("as", "a", False),
        ],
    )
    def test_inflections(self, first, second, same):
        assert same_word(first, second) is same
        assert same_word(second, first) is same


class TestApply:
    def test_every_occurrence_is_replaced(self):
        masked = DEFAULT.apply("Zermatt", MATTERHORN, rng())
        assert masked.text == MATTERHORN.replace("Zermatt", "[mask]")
        assert (masked.span, masked.occurrences, masked.replaced) == ("Zermatt", 2, 2)

    def test_whole_words_keep_what_lies_inside_words(self):
        assert DEFAULT.apply("art", "art, party", rng()).text == "[mask], p[mask]y"
        assert WORDS.apply("art", "art, party", rng()).text == "[mask], party"

    def test_one_mask_replaces_exactly_one_drawn_evenly(self):
        one, source = SpanRules(one_mask=True), rng()
        masked = [one.apply("x", "x x x", source) for _ in range(600)]
        assert all((m.occurrences, m.replaced) == (3, 1) for m in masked)
        counts = Counter(m.text for m in masked)
        assert set(counts) == {"[mask] x x", "x [mask] x", "x x [mask]"}
        assert min(counts.values()) > 150  # 200 expected, standard deviation 12

    def test_a_span_that_is_not_there(self):
        with pytest.raises(ValueError, match="elevate"):
            DEFAULT.apply("elevate", MATTERHORN, rng())

    @given(st.data(), st.booleans(), st.booleans())
    def test_putting_the_span_back_restores_the_passage(self, data, whole_words, one_mask):
        span = data.draw(LETTERS.filter(str.strip))
        passage = span.join(data.draw(st.lists(LETTERS, min_size=2, max_size=7)))
        policy = SpanRules(whole_words=whole_words, one_mask=one_mask)
        valid, cause = policy.check(span, passage)
        event(cause)
        if valid is None:
            assert cause is not InvalidMaskReason.OK
            return
        masked = policy.apply(valid, passage, rng())
        assert masked.text.count(MASK) == masked.replaced == (1 if one_mask else masked.occurrences)
        assert masked.text.replace(MASK, valid) == unicodedata.normalize("NFC", passage)

    @given(st.lists(st.sampled_from(["a", "b", "ab", "é", ",", "-"]), max_size=12))
    def test_whole_word_occurrences_agree_with_a_regular_expression(self, pieces):
        passage = " ".join(pieces)
        expected = [match.start() for match in re.finditer(r"(?<![^\W_])a(?![^\W_])", passage)]
        assert WORDS.occurrences("a", passage) == expected


def test_subword_masks_are_recognised():
    assert is_subword("levat", MATTERHORN)
    assert not is_subword("elevation", MATTERHORN)
    assert is_subword("art", "art, party")
    assert is_subword("a a", "xa a a")


UNSPACED = {
    "zh": ("长江是中国第一大河，全长6300公里。", ["长江", "中国", "第一大河", "6300公里"], []),
    "ja": ("東京スカイツリーは高い。", ["東京", "スカイツリー", "高い"], ["スカイ"]),
    "th": ("กรุงเทพมหานครเป็นเมืองหลวง", ["เมืองหลวง", "กรุงเทพ"], ["เ", "งเ"]),
    "my": ("မြန်မာစကားသည်", ["မြန်မာ", "စကား"], ["မြ", "န်မာ"]),
    "fa": ("او می\u200cخواهد برود", ["می\u200cخواهد"], ["می", "خواهد"]),
    "ko": ("서울은 수도이다", ["서울은"], ["서울"]),
}


@pytest.mark.parametrize("language", UNSPACED)
def test_whole_words_in_scripts_without_spaces(language: str) -> None:
    passage, whole, parts = UNSPACED[language]
    rules = SpanRules(whole_words=True)
    assert {span: rules.check(span, passage)[1] for span in whole} == dict.fromkeys(whole, InvalidMaskReason.OK)
    assert {span: rules.check(span, passage)[1] for span in parts} == dict.fromkeys(parts, InvalidMaskReason.SUBWORD)


def test_max_span_words_counts_the_words_of_scripts_without_spaces() -> None:
    passage = "长江是中国第一大河，全长6300公里。"
    assert SpanRules(max_words=4).check("第一大河", passage)[1] is InvalidMaskReason.OK
    assert SpanRules(max_words=4).check("是中国第一大河", passage)[1] is InvalidMaskReason.TOO_LONG
