"""Copy the files of a checkpoint other than config.json and weights: tokenizer, generation, licence, custom code."""

from __future__ import annotations

import errno
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

from megatron_pz.runtime.errors import brief

_PATTERNS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template*",
    "additional_chat_templates",
    "*.jinja",
    "generation_config.json",
    "*.py",
    "license*",
    "licence*",
    "copying*",
    "copyright*",
    "notice*",
    "*use*policy*",
    "*terms*of*use*",
)
"""Names of files and directories, in small letters."""
_HIDDEN = shutil.ignore_patterns("__pycache__", ".*")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def copy_companions(source: Path, directory: Path) -> None:
    """Copy the companions of a checkpoint, files and whole directories, into an existing directory.

    An unreadable companion (a broken link, a file without permission) is reported on stderr and left out, as is a link
    to a directory that contains the checkpoint. Links to directories within a companion are not followed.

    Raises:
        OSError: the disk is full.
    """
    for path in sorted(source.iterdir()):
        if not any(fnmatch(path.name.lower(), pattern) for pattern in _PATTERNS):
            continue
        try:
            if path.is_dir():
                if source.resolve().is_relative_to(path.resolve()):
                    raise OSError(errno.ELOOP, "it leads to the checkpoint itself")
                shutil.copytree(path, directory / path.name, ignore=_not_copied, dirs_exist_ok=True)
            else:
                shutil.copy(path, directory)
        except (OSError, shutil.Error) as error:
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                raise
            reason = getattr(error, "strerror", None) or brief(error)
            print(f"warning: {path} was not copied to {directory} ({reason})", file=sys.stderr, flush=True)


def _not_copied(directory: str, names: list[str]) -> set[str]:
    links = {name for name in names if (Path(directory) / name).is_symlink() and (Path(directory) / name).is_dir()}
    return links | _HIDDEN(directory, names)
