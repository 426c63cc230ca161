"""Check that a release of vLLM has every name and argument that ``megatron_pz/rollout`` uses, by reading its sources.

    python -m tests.vllm_interface 0.24.0 0.33.0      releases, fetched with pip (about 300 MB each)
    python -m tests.vllm_interface vllm-….whl DIR     wheels, or folders that hold vllm/

Nothing of vLLM is imported, so wheels for GPUs can be read on a machine without one.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path

from megatron_pz.config.schema import RolloutConfig
from megatron_pz.rollout.cpu.platform import CpuPlatform
from megatron_pz.rollout.platform import GpuPlatform
from megatron_pz.rollout.speculation import OF_TOKENS
from megatron_pz.rollout.vllm_settings import QUANTIZATION, engine_arguments

ROOT = Path(__file__).resolve().parents[1]
ROLLOUT = ROOT / "megatron_pz" / "rollout"
OWNERS = {
    "llm_engine": ("vllm/v1/engine/llm_engine.py",),
    "engine_core": ("vllm/v1/engine/core_client.py", "vllm/v1/engine/core.py"),  # a client, and what it holds
    "model_config": ("vllm/config/model.py",),
}
"""Files that define the attributes of what hangs on ``vllm.LLM``, by the name of the attribute that they hang on."""
OUTPUTS = {"output": "RequestOutput", "completion": "CompletionOutput"}
"""Classes of vllm/outputs.py, by the name of the variable that ``rollout/`` holds one in."""
_OF_REQUESTS = re.compile(r"\bRequestOutput\b|\boutput\.outputs\b|\bcompletion\b")
"""A module that matches has to do with requests; another one may call something else ``output``."""
RUNNERS = {"V1": "vllm/v1/worker/gpu_model_runner.py", "V2": "vllm/v1/worker/gpu/model_runner.py"}
ATTRIBUTES = {
    "vllm/v1/engine/core.py": ("cleanup_dist_env_and_memory",),
    "vllm/device_allocator/cumem.py": ("instance", "allocator_and_pools"),
    "vllm/platforms/interface.py": ("_global_graph_pool",),
    "vllm/v1/worker/gpu_model_runner.py": ("rejection_sampler", "sampler"),
    "vllm/v1/spec_decode/metadata.py": ("draft_token_ids", "num_draft_tokens"),
    "vllm/v1/outputs.py": OF_TOKENS,
    "vllm/config/speculative.py": (
        "num_speculative_tokens",
        "prompt_lookup_min",
        "prompt_lookup_max",
        "num_speculative_tokens_per_batch_size",
    ),
}
"""Names that ``rollout/`` sets or reads, by the file that defines or imports them."""
SPELLINGS = {
    "vllm/config/model.py": ("processed_logprobs",),
    "vllm/config/parallel.py": ("external_launcher",),
    "vllm/config/quantization.py": tuple(QUANTIZATION.values()),
}
"""Values of settings."""


class Sources:
    """The Python files of one release."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def text(self, path: str) -> str:
        file = self.folder / path
        return file.read_text(encoding="utf-8") if file.is_file() else ""

    def nodes(self, path: str) -> tuple[ast.AST, ...]:
        return _nodes(self.text(path))

    def module(self, name: str) -> str | None:
        """Return the file of a module, None if there is none."""
        for path in (f"{name.replace('.', '/')}.py", f"{name.replace('.', '/')}/__init__.py"):
            if (self.folder / path).is_file():
                return path
        return None

    def defines(self, module: str, name: str) -> bool:
        """Return whether a module has the name: its own, imported, a module of it, or by ``from … import *``."""
        path = self.module(module)
        if path is None:
            return False
        if re.search(rf"\b{name}\b", self.text(path)) or self.module(f"{module}.{name}"):
            return True
        stars = (node for node in self.nodes(path) if isinstance(node, ast.ImportFrom))
        return any(
            self.defines(f"{module}.{node.module}" if node.level else str(node.module), name)
            for node in stars
            if node.names[0].name == "*"
        )

    def fields(self, path: str, name: str) -> set[str]:
        """Return the annotated fields of a class."""
        found = _class(self.nodes(path), name)
        return {
            each.target.id
            for each in (found.body if found else ())
            if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
        }

    @cached_property
    def llm_methods(self) -> dict[str, ast.FunctionDef]:
        """Return the methods of ``vllm.LLM`` by name, with those of its bases in vllm/entrypoints."""
        classes: dict[str, ast.ClassDef] = {}
        for file in sorted((self.folder / "vllm/entrypoints").rglob("*.py")):
            text = self.text(str(file.relative_to(self.folder)))
            if "class LLM" in text or "Mixin" in text:
                classes |= {node.name: node for node in _nodes(text) if isinstance(node, ast.ClassDef)}
        methods: dict[str, ast.FunctionDef] = {}
        pending = ["LLM"]
        while pending:
            node = classes.get(pending.pop(0))
            if node is not None:
                pending += [base.id for base in node.bases if isinstance(base, ast.Name)]
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and not _is_overload(method):
                        methods.setdefault(method.name, method)
        return methods


def faults(sources: Sources) -> Iterator[str]:
    """Yield one line for each name or argument that this release lacks."""
    yield from _imports(sources)
    yield from dict.fromkeys(_calls(sources))
    engine = sources.fields("vllm/engine/arg_utils.py", "EngineArgs")
    init = sources.llm_methods.get("__init__")
    for name in sorted(_engine_arguments()):
        if name not in engine and (init is None or not _names(init, name)):
            yield f"neither LLM nor EngineArgs has the argument {name}"
    parameters = sources.fields("vllm/sampling_params.py", "SamplingParams")
    for name in sorted(_keys(ast.parse((ROLLOUT / "sampling.py").read_text(encoding="utf-8")))):
        if name not in parameters:
            yield f"SamplingParams has no field {name}"
    yield from _outputs(sources)
    for runner, path in RUNNERS.items():
        reload = [node for node in sources.nodes(path) if getattr(node, "name", "") == "reload_weights"]
        methods = [node for node in reload if isinstance(node, ast.FunctionDef)]
        if not any(_takes(method, "weights_iterator") for method in methods):
            yield f"model runner {runner} has no reload_weights(weights_iterator=…)"
    for path, names in (ATTRIBUTES | SPELLINGS).items():
        text = sources.text(path)
        yield from (f"{path} has no {name}" for name in names if not re.search(rf"\b{name}\b", text))
    collector = "vllm/distributed/aux_output_connector/worker.py"
    if sources.text(collector) and "().is_first_rank" not in sources.text(collector):
        yield f"{collector} no longer asks whether its rank is the first"
    environment = sources.text("vllm/envs.py")
    settings = "".join(file.read_text(encoding="utf-8") for file in sorted(ROLLOUT.rglob("*.py")))
    for name in re.findall(r'"(VLLM_\w+)"', settings):
        if f'"{name}"' not in environment:
            yield f"vllm/envs.py does not know {name}"


def _imports(sources: Sources) -> Iterator[str]:
    """Check everything that the files of megatron_pz/rollout import from vLLM."""
    for file, text in _rollout():
        for node in _nodes(text):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "vllm":
                for alias in node.names:
                    if not sources.defines(str(node.module), alias.name):
                        yield f"{file} imports {alias.name}, which {node.module} does not have"


def _calls(sources: Sources) -> Iterator[str]:
    """Check every use of an engine's ``vllm.LLM``: its methods with their arguments, and its attributes."""
    for _, text in _rollout():
        calls = {id(node.func): node for node in _nodes(text) if isinstance(node, ast.Call)}
        for node in _nodes(text):
            if not isinstance(node, ast.Attribute):
                continue
            owner = getattr(node.value, "attr", getattr(node.value, "id", "")).lstrip("_")
            if owner == "llm" and node.attr not in OWNERS:
                method, call = sources.llm_methods.get(node.attr), calls.get(id(node))
                if method is None:
                    yield f"LLM.{node.attr} is absent"
                else:
                    given = [each.arg for each in call.keywords if each.arg] if call else []
                    yield from (f"LLM.{node.attr} has no argument {name}" for name in given if not _takes(method, name))
            elif owner in OWNERS and not any(re.search(rf"\b{node.attr}\b", sources.text(p)) for p in OWNERS[owner]):
                yield f"{owner}.{node.attr} is in none of {', '.join(OWNERS[owner])}"


def _outputs(sources: Sources) -> Iterator[str]:
    """Check the used attributes of a request's output and of its completions."""
    read = {
        (node.value.id, node.attr)
        for _, text in _rollout()
        if _OF_REQUESTS.search(text)
        for node in _nodes(text)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in OUTPUTS
    }
    for variable, name in sorted(read):
        found = _class(sources.nodes("vllm/outputs.py"), OUTPUTS[variable])
        if found is None or not re.search(rf"\b{name}\b", ast.unparse(found)):
            yield f"{OUTPUTS[variable]} has no {name}"


def _rollout() -> Iterator[tuple[str, str]]:
    """Yield name and text of every file of megatron_pz/rollout."""
    for file in sorted(ROLLOUT.rglob("*.py")):
        yield file.name, file.read_text(encoding="utf-8")


def _engine_arguments() -> set[str]:
    """Return every argument of ``vllm.LLM`` that ``rollout/`` gives: what ``engine_arguments`` returns, and the keys of
    dictionaries that are called arguments, or that a platform's ``kernels`` returns."""
    rollout = replace(RolloutConfig(), rollout_quantization="fp8", rollout_speculative_tokens=4)
    cases = (engine_arguments(rollout, platform, colocated=True) for platform in (CpuPlatform(), GpuPlatform()))
    found = {"seed", "model"}.union(*cases)
    for _, text in _rollout():
        for node in _nodes(text):
            if isinstance(node, ast.FunctionDef) and node.name in ("arguments", "kernels"):
                found |= _keys(node)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    if isinstance(target, ast.Name) and target.id.endswith("arguments") and node.value is not None:
                        found |= _keys(node.value)
                    elif isinstance(target, ast.Subscript) and ast.unparse(target.value).endswith("arguments"):
                        found.add(ast.literal_eval(target.slice))
    return found


def _keys(tree: ast.AST) -> set[str]:
    """Return the string keys of the outermost dictionaries."""
    inner = {id(each) for node in ast.walk(tree) if isinstance(node, ast.Dict) for each in node.values}
    return {
        key.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict) and id(node) not in inner
        for key in node.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    }


@cache
def _nodes(text: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(text)))


def _class(nodes: tuple[ast.AST, ...], name: str) -> ast.ClassDef | None:
    return next((node for node in nodes if isinstance(node, ast.ClassDef) and node.name == name), None)


def _is_overload(method: ast.FunctionDef) -> bool:
    return any("overload" in ast.unparse(decorator) for decorator in method.decorator_list)


def _names(method: ast.FunctionDef, name: str) -> bool:
    arguments = method.args
    return name in {each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}


def _takes(method: ast.FunctionDef, name: str) -> bool:
    return _names(method, name) or method.args.kwarg is not None


def _fetch(version: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*command, "--dest", str(folder), f"vllm=={version}"], check=True)
    (wheel,) = folder.glob(f"vllm-{version}-*.whl")
    return wheel


def _read(what: str, scratch: Path) -> Sources:
    """Return the sources of a release, a wheel or a folder."""
    if Path(what).is_dir():
        return Sources(Path(what))
    wheel = Path(what) if what.endswith(".whl") else _fetch(what, scratch)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(scratch / wheel.stem, [name for name in archive.namelist() if name.endswith(".py")])
    return Sources(scratch / wheel.stem)


def main() -> None:
    """Check the releases; exit with code 1 if one of them lacks something."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        raise SystemExit(0 if len(sys.argv) > 1 else 2)
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        for what in sys.argv[1:]:
            found = list(faults(_read(what, Path(scratch))))
            failed |= bool(found)
            print(f"{what}: {'everything that rollout/ uses is there' if not found else ''}".rstrip())
            for fault in found:
                print(f"  {fault}")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
