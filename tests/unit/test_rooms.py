"""Enforce the layers of the project: a room (a group of packages) imports only from the floors below it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "megatron_pz"

FLOORS: tuple[dict[str, tuple[str, ...]], ...] = (
    # Room: its packages and modules. Rooms of the same floor do not import each other.
    {"runtime": ("runtime",)},
    {"config": ("config",), "corpus": ("corpus",), "hf": ("hf",), "wikitext": ("wikitext",)},
    {
        "rl": ("rl",),
        "roles": ("roles",),
        "question_answering": ("question_answering",),
        "wikipedia.read": ("wikipedia.read",),
    },
    {
        "model": ("model",),
        "monitoring": ("monitoring",),
        "wikipedia.tokenize": ("wikipedia.tokenize",),
    },
    {
        "trainer": ("trainer",),
        "rollout": ("rollout",),
        "planning": ("planning",),
        "wikipedia.filters": ("wikipedia.filters",),
    },
    {"algorithm": ("algorithm",), "checkpoint": ("checkpoint",), "wikipedia.pipeline": ("wikipedia.pipeline",)},
    {"evaluation": ("evaluation",)},
    {"reports": ("reports",)},
    {"run": ("run",)},
    {"cluster": ("cluster",)},
    {"experiment": ("experiment",), "diagnosis": ("diagnosis",)},
    {"commands": ("train", "launch", "cold_start", "baselines", "rlvr", "doctor")},
)

ROOMS = {
    f"{PACKAGE}.{part}": (floor, room)
    for floor, rooms in enumerate(FLOORS)
    for room, parts in rooms.items()
    for part in parts
}

BARRED = {
    # The rules of the game can be tested, and a configuration checked, without a model.
    "roles": {"torch", "megatron", "vllm", "transformers"},
    "config": {"torch", "megatron", "vllm", "transformers"},
    "question_answering": {"torch", "megatron", "vllm", "transformers"},
    "wikitext": {"torch", "megatron", "vllm"},
    "wikipedia.read": {"torch", "megatron", "vllm"},
    "wikipedia.filters": {"torch", "megatron", "vllm"},
    "wikipedia.tokenize": {"torch", "megatron", "vllm"},
    "wikipedia.pipeline": {"torch", "megatron", "vllm"},
    "hf": {"megatron", "vllm", "transformers"},
    "rl": {"megatron", "vllm", "transformers"},
    "model": {"vllm"},
    "corpus": {"vllm"},
    # Weights pass between them as a stream; neither imports the other's library.
    "trainer": {"vllm"},
    "rollout": {"megatron"},
}


def room_of(module: str) -> tuple[int, str] | None:
    """Return floor and name of the room of a dotted module name; the longest entry of the plan counts."""
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 1, -1))
    return next((ROOMS[name] for name in names if name in ROOMS), None)


@cache
def _import_statements(source: str) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]


def imported_modules(source: str, module: str) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of every import anywhere in a module: ``from a import b`` gives ``a.b``."""
    for node in _import_statements(source):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        else:
            base = node.module or ""
            if node.level:
                base = ".".join([*module.split(".")[: -node.level], *filter(None, [base])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def breaches(source: str, module: str) -> list[str]:
    """Return one line for each import of a module that violates the layers."""
    here = room_of(module)
    if here is None:
        return [f"{module} is in no room: put it into the floor plan"]
    found = []
    for line, name in imported_modules(source, module):
        there = room_of(name) if name.startswith(f"{PACKAGE}.") else None
        if there and there != here and there[0] >= here[0]:
            found.append(f"{module}:{line} ({here[1]}) imports {name} ({there[1]}), which is not on a lower floor")
        if name.split(".")[0] in BARRED.get(here[1], ()):
            found.append(f"{module}:{line} ({here[1]}) imports {name}, which this room does without")
    return found


def package_modules() -> dict[str, Path]:
    modules = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def test_every_room_imports_only_from_below() -> None:
    found = [
        breach
        for module, path in package_modules().items()
        if path.stat().st_size and module != PACKAGE
        for breach in breaches(path.read_text(encoding="utf-8"), module)
    ]
    assert not found, "\n".join(found)


def test_the_package_itself_imports_nothing() -> None:
    """``import megatron_pz`` runs before every import of a room, so all rooms would share its imports."""
    assert not list(imported_modules((ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8"), PACKAGE))


TRAINING_COMMANDS = {f"{PACKAGE}.{name}" for name in ("train", "cold_start", "baselines", "rlvr", "launch")}


def test_nobody_imports_a_training_command() -> None:
    """Entry points only connect modules; code that tests or other commands need belongs to a room."""
    files = [path for folder in (PACKAGE, "tests", "tools", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files
        for line, name in imported_modules(path.read_text(encoding="utf-8"), ".".join(path.relative_to(ROOT).parts))
        if name in TRAINING_COMMANDS or name.rpartition(".")[0] in TRAINING_COMMANDS
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source", "words"),
    [
        ("megatron_pz.trainer.policy", "from megatron_pz.rollout.engine import Engine", "not on a lower floor"),
        ("megatron_pz.rollout.engine", "def f():\n    import megatron_pz.trainer", "not on a lower floor"),
        ("megatron_pz.rl.losses", "from megatron_pz import roles", "not on a lower floor"),
        ("megatron_pz.roles.spans", "from ..trainer import policy", "not on a lower floor"),
        ("megatron_pz.config.schema", "from megatron_pz.run.inputs import open_passages", "not on a lower floor"),
        ("megatron_pz.roles.spans", "import torch.nn", "does without"),
        ("megatron_pz.rl.losses", "from megatron.core import parallel_state", "does without"),
        ("megatron_pz.trainer.policy", "if True:\n    from vllm import LLM", "does without"),
        ("megatron_pz.attic", "", "in no room"),
    ],
)
def test_a_breach_is_found(module: str, source: str, words: str) -> None:
    (breach,) = breaches(source, module)
    assert words in breach


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("megatron_pz.trainer.policy", "from megatron_pz.model.gpt import build\nfrom .topology import Topology"),
        ("megatron_pz.model.packed_forward", "from megatron_pz.rl.experience import MicroBatch"),
        ("megatron_pz.rl.losses", "import torch\nfrom megatron_pz.rl.experience import MicroBatch"),
        ("megatron_pz.train", "from megatron_pz.algorithm.pretrain_zero import PretrainZero\nimport vllm"),
        ("megatron_pz.roles.spans", "import megatron_pzz, math"),
    ],
)
def test_what_is_allowed_is_not_a_breach(module: str, source: str) -> None:
    assert breaches(source, module) == []


def test_one_module_names_megatrons_models() -> None:
    """Only one module names GPTModel and its successor HybridModel; all others use LanguageModule."""
    imported = re.compile(r"import (GPTModel|HybridModel)\b")
    named = [path for path in sorted((ROOT / "megatron_pz").rglob("*.py")) if imported.search(path.read_text())]
    assert [path.relative_to(ROOT).as_posix() for path in named] == ["megatron_pz/model/gpt.py"]
