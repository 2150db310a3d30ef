"""The share of the machine's matrix-product peak that training and prediction reach, and where the rest goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from .scoring import FEW, LONG, SHORT, head_scorer, label_scorer, texts
from .setting import Setting, causal_lm
from .timing import Measurement, row, timed
from .training import TrainingSide, our_head

SIZES = (1024, 2048)
# Operations by the beginning of their name; the first group that fits takes one
GROUPS = {
    "matrix products": ("mm", "addmm", "bmm", "matmul", "linear", "mkldnn_linear", "baddbmm"),
    "attention": ("_scaled_dot", "scaled_dot", "_flash", "_softmax", "softmax"),
    "copies and casts": ("copy_", "to", "_to_copy", "cat", "clone", "contiguous", "index", "stack", "fill_", "zero_"),
    "norms and activations": ("mean", "pow", "rsqrt", "silu", "mul", "add", "neg", "sum", "div"),
    "probabilities and loss": ("logsumexp", "_log_softmax", "log_softmax", "nll_loss", "max", "exp"),
    "optimizer": ("_foreach", "_fused", "lerp", "addcdiv", "addcmul", "sqrt"),
}


def utilisation(setting: Setting) -> dict[str, Any]:
    """Measure the peak, and for each kind of work its share of it and the shares of the operations."""
    peak = matrix_peak(setting.dtype)
    documents = texts(setting, setting.batch_size)
    head, scorer = head_scorer(setting, LONG), label_scorer(setting, FEW, SHORT)
    training, trained_flops = training_work(setting)
    parameters = linear_parameters(causal_lm(setting))
    head_tokens = sum(len(head.encoder.encode(text)) for text in documents)
    trie = len({tuple(ids[:end]) for ids in scorer.answer_ids for end in range(1, len(ids))}) + 1
    scored = sum(len(scorer.encoder.document_ids(text)) + len(scorer.encoder.suffix_ids) + trie for text in documents)
    scored += len(scorer.encoder.prefix_ids)
    vocabulary = causal_lm(setting).get_output_embeddings().weight.numel()
    logits = 2 * vocabulary * trie * len(documents)
    return {
        "peak_flops": peak,
        "work": {
            # Attention and adapters are left out of the floating-point operations, so the shares are lower bounds
            "prediction, head": part(peak, 2 * parameters * head_tokens, lambda: head.probabilities(documents)),
            "label scoring": part(peak, 2 * parameters * scored + logits, lambda: scorer.log_probs(documents)),
            "training, head": part(peak, trained_flops, training),
        },
    }


def training_work(setting: Setting) -> tuple[TrainingSide, int]:
    """Embedding-based training on a batch of long documents, and its floating-point operations."""
    training = TrainingSide(our_head, setting, 8, LONG)
    weights = linear_parameters(causal_lm(setting))
    return training, 4 * weights * training.work()["tokens"]  # frozen weights have no gradient


def share_of_peak(setting: Setting) -> dict[str, Any]:
    """S13: the time that matrix products of the same size would take at their best, against that of training."""
    training, flops = training_work(setting)
    training()
    measurement = Measurement([], [])
    for pair in range(setting.pairs):
        measurement.ours.append(timed(training, pair))
        measurement.other.append(flops / matrix_peak(setting.dtype))
    return row("S13", measurement, flops=flops, **training.work())


def matrix_peak(dtype: str) -> float:
    """Best floating-point operations a second of a square matrix product."""
    best = 0.0
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for size in SIZES:
        left, right = (torch.randn(size, size, dtype=getattr(torch, dtype), device=device) for _ in range(2))
        for _ in range(4):
            start = time.perf_counter()
            (left @ right)[0, 0].item()
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def linear_parameters(model: Any) -> int:
    """Weights of the linear layers below the LM head: two operations each for a token."""
    backbone = model.base_model if model.base_model is not model else model.model
    return sum(module.weight.numel() for module in backbone.modules() if isinstance(module, nn.Linear))


def part(peak: float, operations: float, run: Callable[[], Any]) -> dict[str, Any]:
    """Time a piece of work, then profile it once more."""
    run()
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities) as found:
        run()
    return {
        "seconds": seconds,
        "flops": operations / seconds,
        "share_of_peak": operations / seconds / peak,
        "shares": group_shares({event.key: event.self_cpu_time_total for event in found.key_averages()}),
    }


def group_shares(times: dict[str, float]) -> dict[str, float]:
    """Shares of the operator groups, of the time of single operations by name."""
    sums = dict.fromkeys([*GROUPS, "other operations"], 0.0)
    for name, spent in times.items():
        if name.startswith("aten::"):
            sums[group_of(name.removeprefix("aten::"))] += spent
        else:  # Python, autograd's own nodes, the optimizer's frame
            sums["other operations"] += spent
    total = sum(sums.values()) or 1.0
    return {name: spent / total for name, spent in sums.items()}


def group_of(name: str) -> str:
    """The group of an operation: an exact name first, then a beginning."""
    for group, names in GROUPS.items():
        if name.rstrip("_") in names or name in names:
            return group
    for group, names in GROUPS.items():
        if any(len(beginning) > 3 and name.startswith(beginning) for beginning in names):
            return group
    return "other operations"
