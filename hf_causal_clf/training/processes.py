"""Work shared out over processes, and weights that are sharded over them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..cli.processes import recipe_command, unaware

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments


def over_processes(function: Callable[[Sequence[Any]], Any], texts: Sequence[Any]) -> Any:
    """Apply a function of texts to this process's share of them and return the results for all, in order.

    Args:
        function: Returns an array or a list with one entry a text.
        texts: The texts, or their tokens, of all processes. Each is worked on once.

    Returns:
        The whole array or list, in every process.
    """
    from accelerate import PartialState
    from accelerate.utils import gather_object

    state = PartialState()
    if state.num_processes == 1:
        return function(texts)
    with state.split_between_processes(list(texts)) as share:
        parts = gather_object([function(share)])
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return [item for part in parts for item in part]


def is_sharded(trainer: Trainer) -> bool:
    """Whether each process holds a part of the weights only (FSDP, DeepSpeed).

    A forward pass then gathers weights from all processes, so all have to make the same number of them.
    """
    return str(trainer.accelerator.distributed_type) in ("DistributedType.FSDP", "DistributedType.DEEPSPEED")


def sharding(arguments: TrainingArguments) -> str | None:
    """Name what training arguments or `accelerate launch` ask to shard the weights with; `None` if nothing."""
    from accelerate.utils import parse_flag_from_env

    if arguments.fsdp or parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return "FSDP"
    return "DeepSpeed" if arguments.deepspeed or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED") else None


def gather_weights(trainer: Trainer, model: torch.nn.Module) -> dict[str, torch.Tensor] | None:
    """Put together the weights that a run saves, where they are sharded. All processes have to call it.

    Args:
        trainer: The trainer, after training.
        model: Its unwrapped model.

    Returns:
        The weights that were trained of a PEFT model, else all weights; `None` where each process has them whole.
    """
    if not is_sharded(trainer):
        return None
    from torch.distributed.tensor import DTensor

    if not trainer.accelerator.is_fsdp2:
        return trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if hasattr(model, "peft_config"):  # the quantised base stays where it is
        weights = {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}
    else:
        weights = model.state_dict()
    return {
        name: (weight.full_tensor() if isinstance(weight, DTensor) else weight).cpu()
        for name, weight in weights.items()
    }


def check_launch(arguments: TrainingArguments) -> None:
    """Check that a training is shared out as `accelerate launch` was asked to, which accelerate passes over in silence.

    Raises:
        ValueError: If one process sees several GPUs, processes do not know of each other, or FSDP is asked for where it
            is not done or with an optimizer that it cannot have.
    """
    if arguments.n_gpu > 1:
        raise ValueError(
            f"One process sees {arguments.n_gpu} GPUs. For a process on each: "
            f"{recipe_command(f'--num_processes {arguments.n_gpu}')}. For one GPU: "
            f"{recipe_command('--num_processes 1 --gpu_ids 0')}, or CUDA_VISIBLE_DEVICES=0 before the command."
        )
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if arguments.world_size < started:
        raise ValueError(unaware(started))
    if sharding(arguments) != "FSDP":
        return
    if arguments.distributed_state.distributed_type.name == "MULTI_CPU":
        raise ValueError("accelerate has FSDP on GPUs only; on CPUs it leaves it out. Leave FSDP out too.")
    optimizer = getattr(arguments.optim, "value", arguments.optim)
    if any(word in optimizer for word in ("8bit", "paged", "bnb")):
        raise ValueError(f"{optimizer} cannot update the sharded weights of FSDP. Set optim to adamw_torch.")
