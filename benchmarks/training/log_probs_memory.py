"""Compare the peak memory of log-probabilities with gradients: in chunks from hidden states, and from full logits.

    python -m benchmarks.training.log_probs_memory [--tokens 2048] [--hidden-size 128] [--vocabulary 151936]

Both compute log p and its gradients with respect to hidden states and output matrix, and must agree. The measure is the
resident memory above inputs and results, in float32 on the CPU (gpu/ measures a GPU). The peak of the chunks does not
depend on the number of tokens; that of the logits is proportional to it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.common.cpu import require_positive, write_result
from megatron_pz.config.command_line import Parser
from megatron_pz.model.log_probs import vocab_parallel_log_probs
from megatron_pz.monitoring import memory_peaks
from megatron_pz.runtime.cpu_backend import M_MMAP_THRESHOLD
from megatron_pz.runtime.errors import BadInput, exits_with_one_line

GOAL = 1 / 8
LogProbs = Callable[[Tensor, Tensor, Tensor], Tensor]


def in_chunks(hidden_RH: Tensor, weight_VH: Tensor, labels_R: Tensor) -> Tensor:
    """Compute the log-probabilities by the project's kernel."""
    return vocab_parallel_log_probs(hidden_RH, weight_VH, labels_R, 0, len(weight_VH), None)[0]


def from_full_logits(hidden_RH: Tensor, weight_VH: Tensor, labels_R: Tensor) -> Tensor:
    """Compute the log-probabilities from the logits of all tokens, by log-softmax and gather."""
    logits_RV = (hidden_RH @ weight_VH.t()).float()
    return logits_RV.log_softmax(-1).gather(1, labels_R[:, None])[:, 0]


def peak_gib(log_probs: LogProbs, hidden_RH: Tensor, weight_VH: Tensor, labels_R: Tensor) -> float:
    """Return the GiB of a forward and backward pass above the initial memory and the two gradients that remain."""
    hidden_RH.grad = weight_VH.grad = None
    memory_peaks.start()
    before = memory_peaks.peak_gib()
    log_probs(hidden_RH, weight_VH, labels_R).sum().backward()
    gradients = (hidden_RH.nbytes + weight_VH.nbytes) / memory_peaks.GIB
    return memory_peaks.peak_gib() - before - gradients


@exits_with_one_line
def main() -> None:
    """Print both peaks and their ratio; exit with code 1 if the ratio misses the goal or the results differ."""
    parser = Parser((__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--tokens", type=int, default=2048, help="whose log-probabilities are computed")
    parser.add_argument("--hidden-size", type=int, default=128, help="width of a hidden state")
    parser.add_argument("--vocabulary", type=int, default=151_936, help="rows of the output matrix")
    options = parser.parse_args()
    require_positive(options, "tokens", "hidden_size", "vocabulary")
    if torch.cuda.is_available():
        raise BadInput("this counts a CPU's resident memory, and there is a GPU: tests/gpu/run.sh measures its memory")

    # Override cpu_backend: freed large blocks return to the system, so that resident memory is memory in use.
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)
    generator = torch.Generator().manual_seed(0)
    hidden_RH = torch.randn(options.tokens, options.hidden_size, generator=generator)
    weight_VH = torch.randn(options.vocabulary, options.hidden_size, generator=generator)
    labels_R = torch.randint(options.vocabulary, (options.tokens,), generator=generator)
    weight_VH = weight_VH.mul_(options.hidden_size**-0.5).requires_grad_()
    hidden_RH.requires_grad_()

    peaks, gradients = {}, {}
    for name, function in (("in chunks", in_chunks), ("full logits", from_full_logits)):
        function(hidden_RH[:8], weight_VH, labels_R[:8]).sum().backward()  # warm up one-time allocations of libraries
        peaks[name] = peak_gib(function, hidden_RH, weight_VH, labels_R)
        assert hidden_RH.grad is not None
        gradients[name] = hidden_RH.grad.clone()
    ratio = peaks["in chunks"] / peaks["full logits"]
    agree = torch.allclose(gradients["in chunks"], gradients["full logits"], rtol=0.02, atol=1e-4)

    logits = options.tokens * options.vocabulary * 4 / memory_peaks.GIB
    figures = {"float32 logits, GiB": logits}
    figures |= {f"{name}: GiB at most": peak for name, peak in peaks.items()}
    figures |= {f"in chunks / full logits (goal at most {GOAL:g})": ratio, "gradients agree": agree}
    write_result("log_probs_memory", vars(options), figures)
    raise SystemExit(0 if ratio <= GOAL and agree else 1)


if __name__ == "__main__":
    main()
