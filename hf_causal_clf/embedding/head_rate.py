"""A learning rate of its own for the head, in the stock `Trainer`."""

from __future__ import annotations

from typing import Any

from transformers import Trainer
from transformers.trainer_optimizer import is_optimizer_factory


def set_head_learning_rate(trainer: Trainer, rate: float) -> None:
    """Give the head its own learning rate; weights decay as without it, and a schedule multiplies both rates.

    Args:
        trainer: Its model has a head `score`, also within a PEFT model.
        rate: Highest learning rate of the head.

    Raises:
        ValueError: If the optimizer groups the weights itself.
    """
    arguments, model = trainer.args, trainer.model
    kind, options = trainer.get_optimizer_cls_and_kwargs(arguments, model)
    if is_optimizer_factory(kind) or {"params", "model", "optimizer_dict"} & options.keys():
        optimizer = getattr(arguments.optim, "value", arguments.optim)
        raise ValueError(
            f"head_learning_rate is not possible with {optimizer}, which groups the weights itself. Leave it out, or "
            "set optim to adamw_torch or adamw_8bit."
        )
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = {id(weight) for weight in base.score.parameters()}
    decaying = set(trainer.get_decay_parameter_names(model))
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": decay, "lr": lr}
        for lr in (arguments.learning_rate, rate)
        for decay in (arguments.weight_decay, 0.0)
    ]
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            groups[2 * (id(weight) in head) + (name not in decaying)]["params"].append(weight)
    options["params"] = [group for group in groups if group["params"]]
    trainer.optimizer_cls_and_kwargs = (kind, options)
