"""The processes of `accelerate launch`: the command that starts them, and those that it forgets on CPUs."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

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
