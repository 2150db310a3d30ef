"""The processes of `accelerate launch`: the command that starts one, and what it leaves unsaid of several."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import PartialState

_LONGEST_WAIT = timedelta(days=20)  # its milliseconds still fit 32 bits


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
    state = PartialState(cpu=on_cpu, timeout=_LONGEST_WAIT)
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes < started:
        raise ValueError(unaware(started))
    return state


def unaware(started: int) -> str:
    """Say that processes do not know of each other, and how to start them for the CPU."""
    return (
        f"{started} processes were started for GPUs, but there are none, so each would work alone. Start them for the "
        f"CPU: {recipe_command(f'--cpu --num_processes {started}')}"
    )


def check_processes() -> None:
    """Check that `accelerate launch` has not started one process in place of several, which it does without a word.

    Without MPI, accelerate (seen with 1.15) starts one on the CPU: a run would have another batch size. Its sign is
    the address for processes to meet at, without a number of processes.

    Raises:
        ValueError: If it has.
    """
    launched = "ACCELERATE_USE_CPU" in os.environ and "MASTER_PORT" in os.environ
    several = any(name.endswith(("WORLD_SIZE", "PMI_SIZE")) for name in os.environ)
    if launched and not several and os.environ.get("MASTER_ADDR") == "127.0.0.1":  # of several machines, another
        raise ValueError(
            "accelerate launch was asked for several processes and has started one, as it does without GPUs for them "
            f"and without MPI. For several on the CPU: {recipe_command('--cpu --num_processes 2')}. For one, leave "
            "num_processes out."
        )


def recipe_command(options: str) -> str:
    """Return the command that starts this recipe with options of `accelerate launch`, to be shown."""
    return f"hf-causal-clf {Path(sys.argv[0]).stem} {options} …"
