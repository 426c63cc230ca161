r"""Both roles: extraction from responses, and the rewards of equations 8 and 9 by hand."""

import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_pz.config.schema import GameConfig
from megatron_pz.roles.mask_generator import MaskGenerator, MaskProposal, generator_reward
from megatron_pz.roles.mask_predictor import MaskPredictor
from megatron_pz.roles.prompts import PromptFamily
from megatron_pz.roles.spans import InvalidMaskReason, MaskedPassage, SpanRules

PASSAGE = "Bern is the seat of the Swiss government. The government meets in Bern."
QUOTE = PromptFamily.load("quote")
GENERATOR = MaskGenerator(SpanRules(), QUOTE)
PREDICTOR = MaskPredictor(QUOTE)
TEXT_WITH_COMMANDS = st.lists(
    st.sampled_from(["\\mask{", "\\boxed{", "{", "}", "\\", "Bern", "[mask]", " "]) | st.text(max_size=5), max_size=12
).map("".join)


class TestGeneratorReads:
    def test_a_mask_after_some_reasoning(self):
        proposal = GENERATOR.read(r" seat of the \mask{Swiss government}", False, PASSAGE)
        assert proposal == MaskProposal("Swiss government", InvalidMaskReason.OK)

    def test_the_last_balanced_of_several_counts(self):
        assert GENERATOR.read(r"\mask{} rather \mask{Swiss} or \mask{Bern} \mask{se", False, PASSAGE).span == "Bern"

    def test_the_last_counts_even_when_it_is_wrong(self):
        proposal = GENERATOR.read(r"\mask{Bern} or \mask{Basel}", False, PASSAGE)
        assert proposal == MaskProposal(None, InvalidMaskReason.ABSENT)

    def test_nested_braces_belong_to_the_span(self):
        assert GENERATOR.read(r"\mask{f{x}}", False, "Let f{x} be even.").span == "f{x}"

    def test_a_truncated_response_proposes_nothing(self):
        assert GENERATOR.read(r"\mask{Bern} because", True, PASSAGE) == MaskProposal(None, InvalidMaskReason.TRUNCATED)

    @pytest.mark.parametrize(
        ("response", "fault"),
        [
            ("Bern", InvalidMaskReason.NO_COMMAND),
            (r"\boxed{Bern}", InvalidMaskReason.NO_COMMAND),
            (r"\mask{Bern", InvalidMaskReason.NO_COMMAND),
            (r"\mask{ }", InvalidMaskReason.EMPTY),
            (r"\mask{govern}", InvalidMaskReason.OK),
        ],
    )
    def test_faults(self, response, fault):
        assert GENERATOR.read(response, False, PASSAGE).fault is fault

    @given(TEXT_WITH_COMMANDS, st.booleans(), TEXT_WITH_COMMANDS, st.booleans())
    def test_any_text_is_read(self, response, truncated, passage, strict):
        policy = SpanRules(whole_words=strict, leak_guard=strict, max_words=2 if strict else 0)
        proposal = MaskGenerator(policy, QUOTE).read(response, truncated, passage)
        assert (proposal.span is not None) == (proposal.fault is InvalidMaskReason.OK)
        assert 0.0 <= PREDICTOR.reward(response, truncated, "Bern") <= 1.0


class TestGeneratorReward:
    @pytest.mark.parametrize(("right", "reward"), [(8, 0.0), (0, 0.0), (1, 7 / 8), (4, 0.5), (7, 1 / 8)])
    def test_equation_9_with_eight_predictions(self, right, reward):
        assert generator_reward(right / 8, "one_minus_accuracy") == reward

    @pytest.mark.parametrize(("right", "reward"), [(8, 0.0), (0, 0.0), (1, 7 / 64), (4, 0.25)])
    def test_variance(self, right, reward):
        assert generator_reward(right / 8, "variance") == reward

    def test_gaussian(self):
        assert generator_reward(0.5, "gaussian") == 1.0
        assert generator_reward(0.0, "gaussian") == generator_reward(1.0, "gaussian") == math.exp(-3.125)
        assert generator_reward(0.25, "gaussian") == pytest.approx(math.exp(-0.1953125))  # (3/16 - 1/4)^2 / 0.02

    @pytest.mark.parametrize("accuracy", [-0.1, 1.1, math.nan])
    def test_an_accuracy_is_a_fraction(self, accuracy):
        with pytest.raises(ValueError, match="accuracy"):
            generator_reward(accuracy, "one_minus_accuracy")

    def test_a_group_with_an_invalid_mask(self):
        proposals = [
            MaskProposal("Bern", InvalidMaskReason.OK),
            MaskProposal(None, InvalidMaskReason.ABSENT),
            MaskProposal("Swiss", InvalidMaskReason.OK),
            MaskProposal("seat", InvalidMaskReason.OK),
        ]
        accuracies = [0.25, None, 0.0, 1.0]
        assert GENERATOR.rewards(proposals, accuracies, GameConfig()) == [0.75, 0.0, 0.0, 0.0]
        penalty = GameConfig(invalid_mask_penalty=-0.2, generator_reward="variance")
        assert GENERATOR.rewards(proposals, accuracies, penalty) == [0.1875, -0.2, 0.0, 0.0]

    def test_an_unscored_mask_is_an_error_and_not_a_zero(self):
        with pytest.raises(ValueError, match="'Bern'"):
            GENERATOR.rewards([MaskProposal("Bern", InvalidMaskReason.OK)], [None], GameConfig())
        with pytest.raises(ValueError, match="absent"):
            GENERATOR.rewards([MaskProposal(None, InvalidMaskReason.ABSENT)], [0.0], GameConfig())
        with pytest.raises(ValueError):
            GENERATOR.rewards([MaskProposal("Bern", InvalidMaskReason.OK)], [], GameConfig())


class TestPredictorReward:
    @pytest.mark.parametrize(
        ("response", "target", "reward"),
        [
            (r" seat of the \boxed{government}", "government", 1.0),
            (r"\boxed{ government }", "government", 1.0),
            (r"\boxed{elevate}", "elevation", 0.0),
            (r"\boxed{Government}", "government", 0.0),
            (r"\boxed{the government}", "government", 0.0),
            (r"\boxed{Bern} or \boxed{Basel}", "Bern", 0.0),
            (r"\boxed{Basel} or \boxed{Bern} \boxed{", "Bern", 1.0),
            (r"\boxed{f{x}}", "f{x}", 1.0),
            (r"\boxed{}", "government", 0.0),
            ("government", "government", 0.0),
            (r"\mask{government}", "government", 0.0),
            ("\\boxed{climbed\nin 1865}", "climbed\nin 1865", 1.0),
            (r"\boxed{climbed in 1865}", "climbed\nin 1865", 0.0),
        ],
    )
    def test_equation_8(self, response, target, reward):
        assert PREDICTOR.reward(response, False, target) == reward

    def test_a_truncated_response_earns_nothing(self):
        assert PREDICTOR.reward(r"\boxed{Bern} since", True, "Bern") == 0.0

    def test_normalisation_is_a_choice(self):
        decomposed = unicodedata.normalize("NFD", r"\boxed{Café}")
        assert PREDICTOR.reward(decomposed, False, "Café") == 1.0
        assert MaskPredictor(QUOTE, "none").reward(decomposed, False, "Café") == 0.0
        assert MaskPredictor(QUOTE, "none").reward(r"\boxed{Bern }", False, "Bern") == 0.0
        assert MaskPredictor(QUOTE, "casefold").reward(r"\boxed{BERN}", False, "Bern") == 1.0


def test_the_roles_ask_with_the_prompts_of_the_family():
    assert GENERATOR.prompt("A b.") == "Paragraph: A b.\nWords to mask:"
    assert PREDICTOR.prompt(MaskedPassage("A [mask].", "b", 1, 1)) == "Passage: A [mask].\nMasked words:"
