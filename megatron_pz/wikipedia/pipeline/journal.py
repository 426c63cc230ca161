"""Record the progress of a run, so that the same command continues after a kill.

``journal.jsonl`` in the working directory begins with the run's identity, everything that determines the output's
bytes. A line follows for every finished job, written when its shards are complete and on the disk, and for the final
stages.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from megatron_pz.runtime.errors import BadInput
from megatron_pz.runtime.files import flush
from megatron_pz.wikipedia.pipeline.options import Part
from megatron_pz.wikipedia.pipeline.shards import Totals
from megatron_pz.wikipedia.read.damage import Damage

Identity = Mapping[str, Any]
_FIRST_BYTES = 1 << 16


@dataclass(frozen=True)
class JobResult:
    """The result that a worker process returns."""

    number: int
    bytes_read: int
    totals: tuple[Totals, ...]
    """Totals of the shard of every split."""
    counts: Counter[str]
    damage: tuple[Damage, ...] = ()


def journal_path(work: Path, part: Part | None = None) -> Path:
    """Return the path of the journal of a run, or of one part of its work."""
    return work / (f"journal-{part}.jsonl" if part else "journal.jsonl")


def _part_journals(work: Path) -> list[Path]:
    return sorted(work.glob("journal-*-of-*.jsonl"))


def begun_run(work: Path) -> tuple[Identity | None, bool]:
    """Return (identity of the run whose journals are in the directory, whether any of its jobs is finished)."""
    identity = None
    for path in (journal_path(work), *_part_journals(work)):
        begins = True
        with contextlib.suppress(FileNotFoundError), path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                if not begins and line.startswith(b'{"job"'):
                    return identity, True
                if begins:
                    identity, begins = identity or json.loads(line)["identity"], False
    return identity, False


class Journal:
    """The journal of one working directory, written to the disk line by line.

    Args:
        work: The working directory.
        identity: The run's identity as named items, for messages.
        part: The part of the work that this process does; None also reads the journals of all parts.

    Raises:
        BadInput: The directory holds an unfinished run of another identity.
    """

    def __init__(self, work: Path, identity: Identity, part: Part | None = None) -> None:
        self._path = journal_path(work, part)
        self.jobs: dict[int, JobResult] = {}
        self.checksums: dict[str, str] = {}
        """sha256 of the inputs, by their path."""
        self.is_publishing = False
        """All shards are joined and the outputs may have been put in place, some or all."""
        self.report: dict[str, Any] | None = None
        """The results of the run, once all outputs are in place."""
        identity = json.loads(json.dumps(identity))
        self._read(identity)
        for path in () if part else _part_journals(work):
            self._take(path.read_bytes(), identity)

    def add_job(self, result: JobResult) -> None:
        self.jobs[result.number] = result
        content = {field.name: getattr(result, field.name) for field in fields(result)}
        content["totals"] = [asdict(totals) for totals in result.totals]
        content["damage"] = [asdict(damage) for damage in result.damage]
        self._write("job", content)

    def add_checksum(self, path: str, sha256: str) -> None:
        self.checksums[path] = sha256
        self._write("checksum", {"path": path, "sha256": sha256})

    def begin_publishing(self) -> None:
        self.is_publishing = True
        self._write("publishing", {})

    def finish(self, report: dict[str, Any]) -> None:
        self.report = report
        self._write("report", report)

    def _write(self, kind: str, content: Mapping[str, Any]) -> None:
        flush(self._path.parent)  # flush the names of the shards before the line that relies on them
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({kind: content}, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self, identity: Identity) -> None:
        whole = b""
        if self._path.exists():
            content = self._path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            if len(whole) < len(content):  # an incomplete last line
                os.truncate(self._path, len(whole))
        if not whole:
            self._write("identity", identity)
            return
        self._take(whole, identity)

    def _take(self, content: bytes, identity: Identity) -> None:
        """Read the finished work from the complete lines of a journal."""
        for line in content[: content.rfind(b"\n") + 1].splitlines():
            ((kind, said),) = json.loads(line).items()
            if kind == "identity":
                self._require_same(said, identity)
            elif kind == "job":
                result = _job_result(said)
                self.jobs[result.number] = result
            elif kind == "checksum":
                self.checksums[said["path"]] = said["sha256"]
            elif kind == "publishing":
                self.is_publishing = True
            else:
                self.report = said

    def _require_same(self, there: Identity, here: Identity) -> None:
        other = [name for name in {**there, **here} if there.get(name) != here.get(name)]
        if other:
            raise BadInput(
                f"{self._path.parent}: holds an unfinished run with another {', '.join(other)}; repeat its command to "
                "continue it, give --fresh to discard it, or another --output-prefix"
            )


def _job_result(content: dict[str, Any]) -> JobResult:
    return JobResult(
        number=content["number"],
        bytes_read=content["bytes_read"],
        totals=tuple(Totals(**totals) for totals in content["totals"]),
        counts=Counter(content["counts"]),
        damage=tuple(Damage(**damage) for damage in content["damage"]),
    )


def file_identity(path: str) -> dict[str, Any]:
    """Return an identity of the file that differs between files and after changes, without reading the whole file."""
    status = Path(path).stat()
    with Path(path).open("rb") as file:
        first = hashlib.sha256(file.read(_FIRST_BYTES)).hexdigest()
    return {"path": str(Path(path).resolve()), "bytes": status.st_size, "mtime": status.st_mtime_ns, "first": first}


def code_identity() -> str:
    """Hash the code and tables that determine the output, because another version may cut other passages."""
    digest = hashlib.sha256()
    package = Path(__file__).resolve().parents[2]
    rooms = [package / "wikipedia", package / "wikitext", package / "corpus"]
    files = (path for room in rooms for path in room.rglob("*") if path.suffix in (".py", ".pxd", ".toml", ".txt"))
    for path in sorted(files):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
