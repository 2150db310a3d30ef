"""Work shared out over the processes of `accelerate launch`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from accelerate import PartialState
    from transformers import Trainer, TrainingArguments

_LONGEST_WAIT = timedelta(days=20)  # its milliseconds still fit 32 bits


def over_processes(function: Callable[[Sequence[str]], Any], texts: Sequence[str]) -> Any:
    """Apply a function of texts to this process's share of them and return the results for all, in order.

    Args:
        function: Returns an array or a list with one entry a text.
        texts: The texts of all processes. Each is worked on once.

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
        ValueError: If processes do not know of each other, or FSDP is asked for where it is not done or with an
            optimizer that it cannot have.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if arguments.world_size < started:
        raise ValueError(
            f"{started} processes were started for GPUs, but there are none, so each would train alone. Start them "
            "with accelerate launch --config_file recipes/accelerate_configs/cpu_2.yaml."
        )
    if sharding(arguments) != "FSDP":
        return
    if arguments.distributed_state.distributed_type.name == "MULTI_CPU":
        raise ValueError("accelerate has FSDP on GPUs only; on CPUs it leaves it out. Use cpu_2.yaml instead.")
    optimizer = getattr(arguments.optim, "value", arguments.optim)
    if any(word in optimizer for word in ("8bit", "paged", "bnb")):
        raise ValueError(f"{optimizer} cannot update the sharded weights of FSDP. Set optim to adamw_torch.")


def launch_command(script: str, config: str, gpu: str = "0") -> list[str]:
    """Return the command that starts a recipe with `accelerate launch`, on one process with all cores and one GPU."""
    threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
    return [
        *(sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--num_processes", "1", "--num_machines", "1"),
        *("--gpu_ids", gpu, "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--num_cpu_threads_per_process", threads, script, "--config", config),
    ]


def process_state() -> PartialState:
    """Return the state of this process, for scripts that have no `TrainingArguments` to set it up.

    Left to itself, `PartialState` takes each of several CPU processes for the only one where no GPU is seen, and has
    processes wait for each other for half an hour at most (ten minutes on GPUs). Here they wait as long as it takes:
    their shares of the work may differ by hours, and the launcher ends all of them where one fails.
    """
    from accelerate import PartialState

    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    return PartialState(cpu=on_cpu, timeout=_LONGEST_WAIT)


def start_cpu_processes() -> None:
    """Start the processes that `accelerate launch` was asked for on the CPU, by its command line or configuration file.

    Without MPI, accelerate (seen with 1.15) starts a single process there and says nothing: a run would silently have
    another batch size. Call this first in a script; it returns at once in every other case, and in the processes that
    it starts.
    """
    count = _cpu_processes_asked_for()
    if count > 1 and not any(name.endswith(("WORLD_SIZE", "PMI_SIZE")) for name in os.environ):
        raise SystemExit(_run_processes(count))


def _run_processes(count: int) -> int:
    """Run this program in so many processes, as torchrun does; return the exit code.

    Each process tells its own errors, so of torchrun's report only what ended one from outside is said.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        run(parse_args(["--standalone", "--nproc_per_node", str(count), *sys.argv]))
    except SignalException as error:
        return 128 + error.sigval
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values() if failure.exitcode > 0]
        rank, first = error.get_first_failure()
        if not codes:
            print(f"Process {rank} was ended by {first.signal_name()}.", file=sys.stderr)
        return codes[0] if codes else 1
    return 0


def _cpu_processes_asked_for() -> int:
    """Read the number of processes from the `accelerate launch` that started this script, if that is for the CPU."""
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() != "true" or "MASTER_PORT" not in os.environ:
        return 1
    import psutil

    parent = psutil.Process(os.getppid())
    command = parent.cmdline()
    if "launch" not in command:
        return 1
    return processes_to_launch(command[command.index("launch") + 1 :], parent.cwd())


def processes_to_launch(arguments: Sequence[str], folder: str = ".") -> int:
    """Return the number of processes that an `accelerate launch` is asked for on this machine.

    Args:
        arguments: Its command line after `launch`, which wins over the configuration file that it names.
        folder: Working folder of that command.

    Returns:
        The number; 1 where there are several machines, which nobody but their launcher can start.
    """
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    given, _ = launch_command_parser().parse_known_args(list(arguments))
    processes, machines = given.num_processes, given.num_machines
    if given.config_file is not None:
        config: Any = load_config_from_file(os.path.join(folder, given.config_file))
        processes = config.num_processes if processes is None else processes
        machines = config.num_machines if machines is None else machines
    return (processes or 1) if (machines or 1) == 1 else 1
