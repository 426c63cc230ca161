"""Write synthetic run folders for tests of the report."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path

from megatron_pz.monitoring.metrics import StepMetrics
from megatron_pz.monitoring.samples import MaskSample, PredictionSample

SUBJECTS = {
    "river": "river valley bridge water flows bank delta flood mouth tributary basin gorge".split(),
    "composer": "opera symphony piano concert violin orchestra melody premiere chamber sonata score choir".split(),
    "insect": "wings larvae species beetle antennae genus forest leaves eggs colony pollen nest".split(),
}
NAMES = "Danube Vienna Haydn Budapest Linnaeus Prague Mozart Ulm Regensburg Darwin Salzburg Belgrade".split()
FAULTS = ("absent", "no_command", "too_often", "truncated")


def write_run(
    folder: Path,
    *,
    steps: int = 40,
    passages: int = 2,
    masks: int = 4,
    predictions: int = 8,
    words: int = 60,
    corpus: str = "wiki_text_passage",
    seed: int = 0,
) -> Path:
    """Write metrics, samples and a configuration; predictions improve over the steps."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(
        f"data:\n  data_path: [data/{corpus}]\ntraining:\n  train_iters: {steps + 10}\n  seed: {seed}\n",
        encoding="utf-8",
    )
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(StepMetrics(step, metrics(step, steps, rng)).to_json() + "\n" for step in range(1, steps + 1))
    with (folder / "samples.jsonl").open("w", encoding="utf-8") as file:
        for step in range(1, steps + 1):
            for sample in samples(rng, step / steps, passages, masks, predictions, words):
                file.write(sample.to_json(step) + "\n")
    return folder


def metrics(step: int, steps: int, rng: random.Random) -> dict[str, float]:
    """Return a step's measurements under the names of a real run."""
    progress = step / steps

    def near(value: float, spread: float = 0.05) -> float:
        return max(0.0, value + rng.gauss(0.0, spread))

    valid, right = min(1.0, near(0.5 + 0.4 * progress)), min(1.0, near(0.2 + 0.4 * progress))
    found = {
        "generator/reward": near(0.2 + 0.3 * progress),
        "generator/valid_masks": valid,
        **{f"generator/fault_{fault}": (1 - valid) / len(FAULTS) for fault in FAULTS},
        "generator/groups_equal": near(0.2),
        "generator/distinct_masks": near(3.0, 0.3),
        "generator/span_words": near(1.5),
        "generator/span_tokens": near(2.3),
        "generator/sub_word_masks": near(0.05, 0.01),
        "generator/stop_word_masks": near(0.08, 0.01),
        "predictor/accuracy": right,
        "predictor/format": min(1.0, near(0.9)),
        "predictor/groups_mixed": 0.5,
        "predictor/groups_all_zero": 0.4 - 0.2 * progress,
        "predictor/groups_all_one": 0.1 + 0.2 * progress,
        "train/lr": 1e-4 * (1 - 0.5 * progress),
        "train/grad_norm": near(1.0, 0.2),
        "train/loss": rng.gauss(0.0, 0.02),
        "train/active_masks": 1.0,
        "train/responses": 200.0,
        "train/consumed_passages": 4.0 * step,
        "train/skipped_updates": 0.0,
        "train/sampling_rounds": 1.0,
        "loss/clip_low": near(0.001, 0.0005),
        "loss/clip_high": near(0.002, 0.0005),
        "loss/clip_dual": 0.0,
        "loss/ratio_mean": 1.0,
        "loss/ratio_min": 0.4,
        "loss/ratio_max": 2.1,
        "loss/reference_kl": 0.0,
        "health/log_prob_difference_mean": near(0.01, 0.001),
        "health/log_prob_difference_max": near(0.2, 0.05),
        "health/k3_kl": near(2e-4, 2e-5),
        "health/effective_sample_size": 0.99,
        "health/importance_max": 1.2,
        "health/collapse_signs": 0.0,
        "time/iteration": near(20.0, 1.0),
        "time/rollout": 12.0,
        "time/update": 6.0,
        "time/sync": 1.0,
        "time/cpu_seconds": 70.0,
        "time/rollout_engines": 11.0,
        "time/update_passes": 5.5,
        "memory/peak_rollout": 3.0,
        "memory/peak_update": 5.0,
        "compute/trained_tokens": 1e4 * step,
        "compute/sampled_tokens": 2e4 * step,
        "compute/prefilled_tokens": 3e4 * step,
        "compute/scored_tokens": 0.0,
        "compute/flops": 3e13 * step,
        "held_out/once_accuracy": 0.2 + 0.2 * progress if step % 10 == 0 else math.nan,
    }
    for role in ("generator", "predictor"):
        found |= {
            f"{role}/response_length": near(60.0, 4.0),
            f"{role}/truncated": near(0.03, 0.01),
            f"{role}/entropy": near(0.8 - 0.3 * progress),
            f"{role}/gradient_share": 0.5,
            f"{role}/groups_learned_from": 12.0,
            f"{role}/tokens": 9000.0,
        }
    return found


def samples(
    rng: random.Random, skill: float, passages: int, masks: int, predictions: int, words: int
) -> Iterator[MaskSample]:
    """Yield the masks of a step; ``skill``, from 0 to 1, is the probability of a right prediction."""
    for _ in range(passages):
        subject, vocabulary = rng.choice(list(SUBJECTS.items()))
        name = rng.choice(NAMES)
        text = f"The {subject} {name} was described in {rng.randint(1700, 1990)}. " + " ".join(
            rng.choice(vocabulary if rng.random() < 0.5 else NAMES) for _ in range(words)
        )
        for _ in range(masks):
            span = rng.choice(text.split(" ")[1:8]).strip(".")
            if rng.random() < 0.4 - 0.3 * skill:
                fault = rng.choice(FAULTS)
                yield MaskSample(f"{name} ({subject})", text, r"I would hide \mask{Atlantis}.", None, fault, -0.1)
                continue
            answers = [span if rng.random() < 0.15 + 0.7 * skill else rng.choice(NAMES) for _ in range(predictions)]
            right = sum(answer == span for answer in answers) / predictions
            yield MaskSample(
                title=f"{name} ({subject})",
                passage=text,
                response=rf"The word {span} follows from its context: \mask{{{span}}}",
                span=span,
                fault="",
                reward=1 - right if right else 0.0,
                masked_passage=text.replace(span, "[mask]"),
                predictions=tuple(
                    PredictionSample(
                        rf"What stands near suggests {answer}. \boxed{{{answer}}}",
                        answer,
                        answer == span,
                        tokens=12,
                        log_prob_difference=0.0123 if 0 < right < 1 else None,
                    )
                    for answer in answers
                ),
                tokens=15,
                log_prob_difference=0.0042,
                url=f"https://en.wikipedia.org/wiki/{name}",
                revision_id="1234567",
            )


HOSTILE = (
    "</script><script>document.title='taken'</script>",
    "<img src=x onerror=\"document.title='taken'\">",
    "\"quotes\" 'single' `back` & &lt; {{title}} \\u003c",
    "bidi \u202egnitset\u202c and \u2066isolates\u2069",
    "emoji 🦀👩‍🔬 zero\u200bwidth nul\x00 \ud800",
    "長江は中国最大の川である。 นกเค้าแมว",
    "\u2028\u2029 separators",
)


def write_hostile_run(folder: Path) -> Path:
    """Write a run whose texts try to break out of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text(
        StepMetrics(1, {"generator/reward": 0.5, "</script><b>x/y": 1.0}).to_json() + "\n", encoding="utf-8"
    )
    lines = []
    for text in HOSTILE:
        passage = f"{text} Vienna {text}"
        lines.append(
            MaskSample(
                title=text,
                passage=passage,
                response=text,
                span="Vienna",
                fault="",
                reward=0.5,
                masked_passage=f"{text} [mask] {text}",
                predictions=(PredictionSample(text, text, False), PredictionSample(r"\boxed{Vienna}", "Vienna", True)),
                url="javascript:document.title='taken'",
            )
        )
    with (folder / "samples.jsonl").open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(json.loads(json.dumps({"iteration": 1, **json.loads(line.to_json(1))}))) + "\n")
    return folder
