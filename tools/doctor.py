"""What is installed here, does it work, can a configuration run on it? The same as ``python -m megatron_pz.doctor``.

python tools/doctor.py --config examples/qwen3_4b/config.yaml
"""

from megatron_pz.doctor import main

if __name__ == "__main__":
    main()
