"""Work shared out over the processes of `accelerate launch`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from accelerate import PartialState


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


def launch_command(script: str, config: str, gpu: str = "0") -> list[str]:
    """Return the command that starts a recipe with `accelerate launch`, on one process with all cores and one GPU."""
    threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
    return [
        *(sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"),
        *("--gpu_ids", gpu, "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--num_cpu_threads_per_process", threads, script, "--config", config),
    ]


def process_state() -> PartialState:
    """Return the state of this process, for scripts that have no `TrainingArguments` to set it up.

    Left to itself, `PartialState` takes each of several CPU processes for the only one where no GPU is seen.
    """
    from accelerate import PartialState

    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    return PartialState(cpu=on_cpu)


def start_cpu_processes() -> None:
    """Start the processes that `accelerate launch --cpu --num_processes n` was asked for.

    Without MPI, accelerate (seen with 1.15) starts a single process there and says nothing: a run would silently have
    another batch size. Call this first in a script; it returns at once in every other case, and in the processes that
    it starts.
    """
    count = _cpu_processes_asked_for()
    if count > 1 and not any(name.endswith(("WORLD_SIZE", "PMI_SIZE")) for name in os.environ):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
        os.execv(sys.executable, [*command, *sys.argv])


def _cpu_processes_asked_for() -> int:
    """Read `--num_processes` from the command line of the `accelerate launch --cpu` that started this script."""
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() != "true" or "MASTER_PORT" not in os.environ:
        return 1
    import psutil
    from accelerate.commands.launch import launch_command_parser

    command = psutil.Process(os.getppid()).cmdline()
    if "launch" not in command:
        return 1
    arguments, _ = launch_command_parser().parse_known_args(command[command.index("launch") + 1 :])
    return (arguments.num_processes or 1) if (arguments.num_machines or 1) == 1 else 1
