"""The command `hf-causal-clf`: says what the recipes are and starts them with accelerate.

A module beside the package, not in it: importing `hf_causal_clf` imports torch, which takes seconds, and help needs no
torch. The recipes lie in the package where it was installed from a wheel, beside it in a clone.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import logging
import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

RECIPES = (
    *("embed", "instruct", "compare", "audit", "plan", "distill", "cascade"),
    *("predict", "explain", "serve", "demo", "export", "benchmark"),
)
# In one process, or launching runs themselves
ALONE = ("compare", "audit", "plan", "cascade", "explain", "serve", "demo", "export", "benchmark")
OF_THE_RECIPE = ("--debug", "--gradient_accumulation_steps")  # options that accelerate launch has too
NOT_OFFERED = ("--help", "--module", "--no_python")  # of accelerate launch: for other programs than a Python file
MISTAKE = 2  # exit code, as argparse's
_PACKAGE = Path(__file__).with_name("hf_causal_clf")
_WIDTH = 100


def main() -> None:
    """Run the command."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(overview())
    elif words[0] == "--version":
        print(f"hf-causal-clf {version()}")
    elif words[0] not in RECIPES:
        nearest = difflib.get_close_matches(words[0], RECIPES, n=1)
        hint = f"Did you mean {nearest[0]!r}?" if nearest else f"There are {', '.join(RECIPES)}."
        print(f"There is no recipe {words[0]!r}. {hint} See hf-causal-clf --help.", file=sys.stderr)
        sys.exit(MISTAKE)
    elif "--help" in words or "-h" in words:
        print((recipes() / "help" / f"{words[0]}.txt").read_text(encoding="utf-8"), end="")
    else:
        start(words[0], words[1:])


def recipes() -> Path:
    """Return the folder of the recipes."""
    shipped = _PACKAGE / "recipes"
    return shipped if shipped.is_dir() else _PACKAGE.with_name("recipes")


def version() -> str:
    """Return the version of the package, without importing it."""
    found = re.search(r'^__version__ = "(.+)"$', (_PACKAGE / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found[1]


def overview() -> str:
    """Return the text of `--help`: the recipes, with the first line of each."""
    lines = ["usage: hf-causal-clf RECIPE [--config FILE.yaml] [OPTION …]", ""]
    for name in RECIPES:
        about = ast.get_docstring(ast.parse((recipes() / f"{name}.py").read_text(encoding="utf-8"))) or ""
        first = about.splitlines()[0]
        lines += textwrap.wrap(first, _WIDTH, initial_indent=f"  {name:<11}", subsequent_indent=" " * 13)
    launched = [name for name in RECIPES if name not in ALONE]
    notes = (
        "hf-causal-clf RECIPE --help shows the options that people set, RECIPE --help-all all of them.",
        f"{', '.join(launched)} are started with accelerate launch: its options (--num_processes, --config_file, "
        f"--gpu_ids …) may stand anywhere after the recipe; {' and '.join(OF_THE_RECIPE)} are the recipe's. Several "
        "processes on a CPU: --cpu --num_processes 2.",
        "hf-causal-clf --version prints the version.",
    )
    return "\n".join([*lines, "", *(textwrap.fill(note, _WIDTH) for note in notes)])


def start(name: str, words: Sequence[str]) -> None:
    """Start a recipe in place of this process, or in several processes. Does not return.

    Args:
        name: The recipe.
        words: Options of the recipe and of `accelerate launch`, mixed.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a thread that waits leaves its core to others
    script = str(recipes() / f"{name}.py")
    if name in ALONE or "--help-all" in words or "--help_all" in words:
        _become([sys.executable, script, *words], dict(os.environ))
    from accelerate.commands import launch

    parser = launch.launch_command_parser()
    # accelerate's own waits for a child: SIGTERM would end the launcher alone, and every exit code become 1
    launch.simple_launcher = _start_simply
    try:
        launching, options = told_apart(words, parser)
        arguments = parser.parse_args([*launching, script, *options])
        fill_in(arguments)
        sys.exit(exit_code(lambda: launch.launch_command(arguments)))
    except (ValueError, FileNotFoundError) as error:  # wrong values, options that contradict each other, no such file
        print(error, file=sys.stderr)
        sys.exit(MISTAKE)


def told_apart(words: Sequence[str], parser: argparse.ArgumentParser) -> tuple[list[str], list[str]]:
    """Tell the options of `accelerate launch` from the recipe's.

    Args:
        words: Both, mixed.
        parser: The parser of `accelerate launch`.

    Returns:
        The launcher's and the recipe's. A name that both know is the recipe's.

    Raises:
        ValueError: If an option of the launcher has a value that it does not take.
    """
    known = {name: action for action in parser._actions for name in action.option_strings}
    launching: list[str] = []
    options: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name = word.partition("=")[0].replace("-", "_").replace("__", "--", 1)
        if name not in known or name in (*OF_THE_RECIPE, *NOT_OFFERED) or not word.startswith("--"):
            options.append(word)
            continue
        launching.append(word)
        given = [word.partition("=")[2]] if "=" in word else []
        if known[name].nargs != 0 and not given and rest and not re.match(r"-\D", rest[0]):
            given = [rest.pop(0)]
            launching += given
        check_value(name, known[name], given)
    return launching, options


def check_value(name: str, option: argparse.Action, given: Sequence[str]) -> None:
    """Check the value of an option of `accelerate launch`, whose parser would print the whole usage.

    Args:
        name: The option's name.
        option: What the parser knows of it.
        given: Its value, if it has one.

    Raises:
        ValueError: If it does not take that value, or misses one.
    """
    right, kinds = bool(given), {"int": "a whole number", "float": "a number", "str": "a text", "None": "a text"}
    if option.nargs == 0:
        allowed, right = "no value", not given
    elif option.choices is not None:
        allowed, right = f"one of {', '.join(option.choices)}", right and given[0] in option.choices
    else:
        allowed = kinds.get(getattr(option.type, "__name__", "None"), "true or false")
        right = right and _reads(option.type, given[0])
    if name in ("--num_processes", "--num_machines"):
        allowed, right = "a whole number from 1", right and int(given[0]) >= 1
    if not right:
        got = repr(given[0]) if given else "none"
        raise ValueError(f"{name}, an option of accelerate launch, takes {allowed}, got {got}.")


def _reads(kind: Any, value: str) -> bool:
    """Whether the type of an option takes a value."""
    try:
        return kind is None or kind(value) is not None
    except (ValueError, argparse.ArgumentTypeError):
        return False


def fill_in(arguments: argparse.Namespace) -> None:
    """Fill in what `accelerate launch` would otherwise choose with a warning, unless a configuration file says it."""
    import torch
    from accelerate.commands.config.config_args import default_config_file

    if arguments.config_file is not None or (os.path.isfile(default_config_file) and not arguments.cpu):
        return
    chosen = [number for number in (arguments.gpu_ids or "all").split(",") if number]
    seen = torch.accelerator.device_count() if chosen == ["all"] else len(chosen)
    devices = 0 if arguments.cpu else seen
    defaults = {"num_processes": max(devices, 1), "num_machines": 1, "mixed_precision": "no", "dynamo_backend": "no"}
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if arguments.num_cpu_threads_per_process is None and "OMP_NUM_THREADS" not in os.environ:
        processes = max(arguments.num_processes // arguments.num_machines, 1)
        arguments.num_cpu_threads_per_process = max((os.cpu_count() or 1) // processes, 1)


def _start_simply(arguments: argparse.Namespace) -> None:
    """Start one process or, on the CPU, as many as are asked for: without MPI, accelerate starts only one."""
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env

    command, environment = prepare_simple_launcher_cmd_env(arguments)
    by_mpi = arguments.mpirun_hostfile is not None or arguments.num_machines > 1
    if by_mpi or arguments.num_processes == 1 or environment["ACCELERATE_USE_CPU"].lower() != "true":
        _become(command, environment)
    from torch.distributed.run import parse_args, run

    os.environ.update(environment)
    run(parse_args(["--standalone", "--nproc_per_node", str(arguments.num_processes), *command[1:]]))


def _become(command: list[str], environment: dict[str, str]) -> None:
    """Go on as another program, which so has this one's signals, terminal and exit code."""
    sys.stdout.flush()
    os.execvpe(command[0], command, environment)


def exit_code(run: Callable[[], Any]) -> int:
    """Run processes as torchrun does and return the exit code.

    Each process tells its own errors, so of torchrun's report only what ended one from outside is said.

    Args:
        run: Starts the processes and waits for them.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        run()
    except SignalException as error:
        return 128 + error.sigval
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values() if failure.exitcode > 0]
        rank, first = error.get_first_failure()
        if not codes:
            print(f"Process {rank} was ended by {first.signal_name()}.", file=sys.stderr)
        return codes[0] if codes else 1
    return 0


if __name__ == "__main__":
    main()
