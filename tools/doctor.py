"""Report the installed software, whether it works, and whether a configuration can run on this machine.

python tools/doctor.py --config examples/qwen3_4b/config.yaml      # the same as python -m megatron_pz.doctor
"""

from megatron_pz.doctor import main

if __name__ == "__main__":
    main()
