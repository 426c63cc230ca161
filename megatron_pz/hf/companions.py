"""Copy what a checkpoint holds beside config.json and weights: tokenizer, generation, licence, custom code."""

from __future__ import annotations

import errno
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

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
_NOT_COPIED = shutil.ignore_patterns("__pycache__", ".*")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def copy_companions(source: Path, directory: Path) -> None:
    """Copy the companions of a checkpoint, files and whole directories, into an existing directory.

    One that cannot be read (a link to nothing, a file without permission) is reported on stderr and left out.

    Raises:
        OSError: the disk is full.
    """
    for path in sorted(source.iterdir()):
        if not any(fnmatch(path.name.lower(), pattern) for pattern in _PATTERNS):
            continue
        try:
            if path.is_dir():
                shutil.copytree(path, directory / path.name, ignore=_NOT_COPIED, dirs_exist_ok=True)
            else:
                shutil.copy(path, directory)
        except (OSError, shutil.Error) as error:
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                raise
            reason = getattr(error, "strerror", None) or error
            print(f"warning: {path} was not copied to {directory} ({reason})", file=sys.stderr, flush=True)
