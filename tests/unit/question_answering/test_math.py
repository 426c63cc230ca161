"""Mathematics: extraction by Qwen2.5-Math's rules, and both graders on answers that are hard to compare."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from megatron_pz.question_answering.benchmarks import load_benchmark
from megatron_pz.question_answering.math_grader import GraderFailure, MathGrader
from megatron_pz.question_answering.math_worker import reply
from megatron_pz.question_answering.question import Question
from megatron_pz.question_answering.qwen_math import LONGEST_ANSWER, normalize, read
from megatron_pz.question_answering.recipes import recipe
from tests.support.benchmark_data import benchmark_data
from tests.support.cpu_time import cpu_seconds


def question(answer: str, benchmark: str = "math500") -> Question:
    return Question(benchmark, "0", benchmark, "What is it?", answer, "test.jsonl:1")


@pytest.mark.parametrize(
    ("gold", "answer", "math_verify", "qwen"),
    [
        ("18", "18.0", True, True),
        ("18", "\\$18", True, True),
        ("18", "18 dollars", True, False),
        ("18", "18\\text{ dollars}", True, True),
        ("18", "17", False, False),
        ("1450", "1,450", True, True),
        ("\\frac12", "0.5", True, True),
        ("\\frac{\\sqrt{3}}{2}", "\\sqrt3/2", True, True),
        ("90^{\\circ}", "90", True, True),
        ("50", "0.5", False, True),  # a percentage of the other
        ("50", "50\\%", True, True),
        ("33.3", "33.301", False, True),  # within a relative 1e-4
        ("69,84", "84, 69", True, False),
        ("(1,2)", "(1, 2.0)", True, True),
        ("(1,2)", "(2,1)", False, False),
        ("x^2+2x+1", "(x+1)^2", True, True),
        ("p - q", "-q+p", True, True),
        ("y = 2x + 1", "2x - y + 1 = 0", True, False),
        ("k=1", "1", True, True),
        ("6 - 5i", "6-5i", True, True),
        ("4.5e33", "4.5 \\times 10^{33}", True, False),
        ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{bmatrix}1\\\\2\\end{bmatrix}", True, True),
        ("\\text{Evelyn}", "Evelyn", True, True),
        ("20 \\sqrt{7}", "\\text{20 \\sqrt{7}}", True, True),
        ("\\frac{12}{169}", "\\text{\\frac{12}{169}}", True, True),
        ("2^{k}", "\\text{2^{k}}", True, True),
        ("18", "18.", True, True),
        ("-3./2", "-1.5", True, True),
        ("(1,2)", "(1.,2.)", True, True),
        ("0.333", "0.3333...", False, False),
        ("70000", "70\\,000", True, False),
        ("70000", "70 000", True, True),
        ("2,100", "2 100.0", True, True),
        ("1.6", "1.6~\\mathrm{cm}", True, False),
        ("(1,2)", "(1,\\;2)", True, True),
        ("5", "5x", False, False),
        ("5", "", False, False),
        ("\\pi", "3.14159", False, True),
    ],
)
def test_both_graders_compare(gold: str, answer: str, math_verify: bool, qwen: bool) -> None:
    protocol = recipe("general_reasoner").protocol("math500")
    verdicts = {name: compare(question(gold), answer) for name, compare in protocol.graders.items()}
    assert verdicts == {"math_verify": math_verify, "qwen": qwen}


def test_minerva_stands_under_both_graders_and_units_stay_under_qwens() -> None:
    asked = question("1.6", "minerva_math")
    response = "so \\boxed{1.6 \\mathrm{~cm}}"
    strict, lenient = (
        recipe(name).protocol("minerva_math").grade(asked, response, 0) for name in ("authors", "general_reasoner")
    )
    assert strict.graders == lenient.graders == {"math_verify": True, "qwen": False}
    assert (strict.correct, lenient.correct) == (False, True), "the recipe's first grader decides"


def test_a_box_of_mathematics_may_nest_braces_at_will() -> None:
    root = "\\frac{1}{\\sqrt{1-\\frac{x^{2}}{2}}}"
    verdict = recipe("general_reasoner").protocol("math500").grade(question(root), f"\\boxed{{{root}}}", 0)
    assert (verdict.extracted, verdict.correct) == (root, True)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("So \\boxed{1}, no, \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed 5$", "5"),
        ("\\boxed{5", "5"),  # up to the end
        ("The final answer is $5$. I hope it is correct. \\boxed{6}", "5"),
        ("The final answer is (1, 2).", "(1, 2)"),
        ("The final answer is 5. No: the answer is 6.", "6"),
        ("三加四。答案是 7。\n\n8", "7。"),
        ("The answer is: 5.", "5"),
        ("The answer is 4, no, the answer is 5/", "5"),
        ("I get 1,234.5 ducks", "1234.5"),
        ("from 3 to -4", "-4"),
        ("5<|im_end|>6", "5"),
        ("no idea", None),
        ("\\boxed{}", None),
    ],
)
def test_qwens_rules_read_down_to_the_last_number(response: str, answer: str | None) -> None:
    assert read(response) == answer


@pytest.mark.parametrize(
    "piece", ["\\boxed{", "boxed", "{", "The answer is ", "1.", "-", "\\text{", "the final answer is $"]
)
def test_a_megabyte_is_read_in_linear_time_and_is_no_answer(piece: str) -> None:
    response = piece * (1_000_000 // len(piece))
    protocol = recipe("authors").protocol("gsm8k")
    assert cpu_seconds(lambda: protocol.grade(question("1", "gsm8k"), response, 0)) < 5
    verdict = protocol.grade(question("1", "gsm8k"), response, 0)
    assert not verdict.correct
    if verdict.extracted and len(verdict.extracted) > LONGEST_ANSWER:
        assert verdict.error == "; ".join(
            f"{name}: an answer of {len(verdict.extracted)} characters is not compared"
            for name in ("qwen", "math_verify")
        )


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("\\dfrac{1}2", "\\frac{1}{2}"),
        ("x = 5 \\text{ cm}", "5"),
        ("5 miles", "5"),
        (".5", "0.5"),
        ("3.00", "3"),
        ("-3/4", "-\\frac{3}{4}"),
        ("\\left( 1, \\infty \\right)", "(1,\\infty)"),
        ("2\\sqrt3", "2\\sqrt{3}"),
        ("\\text{m}", ""),  # a unit alone is also removed
        ("5 \\text{ cm$^{2}$}", "5"),
        ("m_1 + 3 m", "m_1+3"),  # and a name that begins like one is not
        ("", ""),
    ],
)
def test_answers_are_brought_into_one_form(answer: str, normal: str) -> None:
    assert normalize(answer) == normal


def test_qwens_prompt_names_the_choice_between_two() -> None:
    protocol = recipe("authors").protocol("math500")
    assert protocol.messages(question("Yes"))[1]["content"] == "What is it? (Yes or No)"
    assert protocol.completion(question("5")) == (
        "Please reason step by step, and put your final answer within \\boxed{}.\n\nWhat is it?\n"
    )


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    grader = MathGrader(cpu_seconds=0.3)
    yield grader
    grader.close()


def test_a_comparison_without_end_is_a_failure_and_the_next_one_works(grader: MathGrader) -> None:
    handler = signal.getsignal(signal.SIGALRM)
    for name in ("math_verify", "qwen"):
        with pytest.raises(GraderFailure, match=f"{name}: not compared within 0.3 s of CPU time"):
            grader.equal(name, "2", "9^{9^{9^9}}+1")
    assert grader.equal("math_verify", "2", "1+1")
    assert signal.getsignal(signal.SIGALRM) is handler


def test_a_grader_works_off_the_main_thread_and_after_its_worker_was_killed(grader: MathGrader) -> None:
    verdicts: list[bool] = []
    threads = [threading.Thread(target=lambda: verdicts.append(grader.equal("qwen", "2", "1+1"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == [True] * 3
    assert grader._process is not None
    os.kill(grader._process.pid, signal.SIGKILL)
    assert grader.equal("math_verify", "2", "1+1")


def test_a_grader_that_raises_counts_as_wrong_and_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(gold: str, answer: str) -> bool:
        raise RuntimeError("what a\nstrange answer")

    monkeypatch.setattr("megatron_pz.question_answering.math_worker.GRADERS", {"math_verify": fails})
    request = {"grader": "math_verify", "gold": "1", "answer": "2"}
    assert reply(request, cpu_seconds=5) == {"error": "RuntimeError: what a strange answer"}

    def unreachable(self: MathGrader, grader: str, gold: str, answer: str) -> bool:
        if grader == "qwen":
            raise RuntimeError("no worker")
        return True

    monkeypatch.setattr(MathGrader, "equal", unreachable)
    verdict = recipe("authors").protocol("gsm8k").grade(question("1", "gsm8k"), "\\boxed{1}", 0)
    assert (verdict.extracted, verdict.correct, verdict.error) == ("1", False, "qwen: RuntimeError: no worker")
    assert verdict.graders == {"qwen": False, "math_verify": True}


@pytest.mark.parametrize("name", ["gsm8k", "aime24", "amc23", "minerva_math", "olympiadbench"])
def test_every_reference_is_its_own_answer(name: str) -> None:
    """A negative space before the answer makes the texts differ; a sample of each set is used."""
    general, authors = (recipe(kind).protocol(name) for kind in ("general_reasoner", "authors"))
    for asked in load_benchmark(name, benchmark_data())[::60]:
        response = f"Hence $\\boxed{{\\!{asked.answer.replace('$', '')}}}$."
        assert general.grade(asked, response, 0).correct, asked
        assert authors.grade(asked, response, 0).correct, asked
