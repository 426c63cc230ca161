#!/usr/bin/env bash
# Run a command as a CPU without AVX-512 would run it: torch, oneDNN, MKL and vLLM use AVX2 only.
#
#   tools/without_avx512.sh ./tests/run.sh system
#   tools/without_avx512.sh ./examples/quickstart.sh
#
# vLLM asks the processor and not these variables; megatron_pz/rollout/cpu/ makes it follow torch's.
set -euo pipefail
(($#)) || { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 2; }
export ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
exec "$@"
