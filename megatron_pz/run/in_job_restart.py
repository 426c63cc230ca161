"""Resume from the run's own checkpoint after a launcher has restarted the processes within a job."""

from __future__ import annotations

import dataclasses
import os

from megatron_pz.checkpoint.checkpoint_files import latest_iteration
from megatron_pz.config.schema import RunConfig

RESTARTS_VARIABLE = "TORCHELASTIC_RESTART_COUNT"
"""Set by every launcher on torch's elastic API, ``ft_launcher`` included; 0 in the first attempt."""


def resumed_after_restart(config: RunConfig) -> RunConfig:
    """Return the configuration with ``load`` at ``save``, if this is a restart and ``save`` has a checkpoint.

    The command line is still that of the first attempt. Without a checkpoint the configuration is unchanged, and the
    run refuses its directory, which has the files of the failed attempt.

    Raises:
        BadInput: the record of the newest checkpoint cannot be read.
    """
    training = config.training
    if int(os.environ.get(RESTARTS_VARIABLE) or 0) == 0 or latest_iteration(training.save) is None:
        return config
    return dataclasses.replace(config, training=dataclasses.replace(training, load=training.save))
