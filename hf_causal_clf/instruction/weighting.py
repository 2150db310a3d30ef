"""Documents that weigh differently in the loss of the instruction-based approach."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import parse_flag_from_env

if TYPE_CHECKING:
    from trl import SFTConfig, SFTTrainer

WEIGHTS = "weights"  # of a batch's documents, float32 `(batch,)`


def weigh_documents(trainer: SFTTrainer) -> None:
    """Let a document's tokens count as much in a trainer's loss as the batch's `weights` say.

    A batch without `weights` is as before. The divisor of the loss stays the number of tokens in the whole accumulated
    batch over all processes. So a weight of 2 adds to the sum what the document would add a second time, and neither
    accumulation nor processes change the result.

    Args:
        trainer: Its model's `forward`, with TRL's fused LM head, is replaced. `check_weighting` has to let its
            arguments pass.
    """
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    forward = base.forward

    @functools.wraps(forward)
    def weighted(*args: Any, weights: torch.Tensor | None = None, **kwargs: Any) -> Any:
        outputs = forward(*args, **kwargs)
        if weights is not None and kwargs.get("fused_lm_head"):
            # TRL's loss is the sum of these over the number of tokens
            outputs.log_probs = outputs.log_probs * weights[:, None].to(outputs.log_probs)
        return outputs

    base.forward = weighted


def check_weighting(arguments: SFTConfig) -> None:
    """Check that the loss is one that weights reach.

    Raises:
        ValueError: If it is another one than the tokens' negative log-likelihood.
    """
    if arguments.label_smoothing_factor or arguments.loss_type != "nll":
        raise ValueError(
            "class_weight weighs the tokens' negative log-likelihood, so it goes neither with label_smoothing_factor "
            f"({arguments.label_smoothing_factor}) nor with loss_type {arguments.loss_type}. Leave one of them out."
        )
    if arguments.parallelism_config is not None or parse_flag_from_env("ACCELERATE_USE_PARALLELISM_CONFIG"):
        raise ValueError("class_weight is not possible with a parallelism_config. Leave one of them out.")
