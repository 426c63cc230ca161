"""Start the processes of one node: ``python -m megatron_pz.launch [flags] MODULE [flags of the module]``.

``megatron_pz.cluster.launcher`` describes flags, signals and exit codes.
"""

from megatron_pz.cluster.launcher import main

if __name__ == "__main__":
    main()
