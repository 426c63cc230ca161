"""Go on from the run's own checkpoint where a launcher has started the processes again within one job."""

from __future__ import annotations

import dataclasses
import os

from megatron_pz.checkpoint.checkpoint_files import latest_iteration
from megatron_pz.config.schema import RunConfig

RESTARTS_VARIABLE = "TORCHELASTIC_RESTART_COUNT"
"""Set by every launcher on torch's elastic API, ``ft_launcher`` included; 0 in the first attempt."""


def resumed_after_restart(config: RunConfig) -> RunConfig:
    """Return the configuration with ``load`` at ``save``, if this is a restart and ``save`` has a checkpoint.

    The command line stays that of the first attempt. Without a checkpoint it is left alone: the run then refuses its
    directory, which holds the files of the failed attempt.

    Raises:
        BadInput: the record of the newest checkpoint cannot be read.
    """
    training = config.training
    if int(os.environ.get(RESTARTS_VARIABLE) or 0) == 0 or latest_iteration(training.save) is None:
        return config
    return dataclasses.replace(config, training=dataclasses.replace(training, load=training.save))
