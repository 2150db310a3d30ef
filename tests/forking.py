"""Processes that start at once: forks of one that has imported what recipes import, which takes seconds each time.

For what a process does, not for how it starts or what it imports. Functions that end at exit (`atexit`) are not run.
"""

import gc
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from multiprocessing import connection
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["accelerate", "datasets", "matplotlib.figure", "peft", "sklearn.linear_model", "transformers", "trl"]
    + [
        f"hf_causal_clf.{name}"
        for name in ("combining", "comparison.running", "comparison.tuning", "folding", "shards")
    ]
)


def _run(words: list[str], folder: str, environment: dict[str, str], output: str, leads: bool) -> None:
    gc.freeze()  # the garbage collector passes over all that was imported
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as from a terminal, if the tests run in the background
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if leads:
        os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, stream in ((1, "stdout"), (2, "stderr")):
        with open(Path(output, stream), "ab") as file:
            os.dup2(file.fileno(), number)
    sys.argv = words
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")


def start(words, output, cwd=ROOT, env=None, leads=False):
    """Start a process that does what Python would do with these words, and return it (`multiprocessing.Process`).

    Args:
        words: A script and its options, or `-c` and code.
        output: Folder for its `stdout` and `stderr`.
        cwd: Its working folder.
        env: Its environment, if not that of this process.
        leads: Whether it leads a session of its own.
    """
    given = list(map(str, words)), str(cwd), dict(os.environ if env is None else env), str(output), leads
    process = _CONTEXT.Process(target=_run, args=given)
    process.start()
    return process


def run(words, cwd=ROOT, env=None, timeout=300) -> CompletedProcess:
    """Do what `subprocess.run` does with Python and these words, its output captured as text."""
    return _ended(words, [{}], cwd, env, timeout)


def run_two(words, cwd=ROOT, env=None, timeout=300) -> CompletedProcess:
    """Do the same in two CPU processes that know of each other, as `torchrun` starts them; `env` adds variables."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    both = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", **(env or {})}
    own = [{**both, "RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
    return _ended(words, own, cwd, None, timeout)


def _ended(words, own, cwd, env, timeout) -> CompletedProcess:
    """Wait for processes with variables of their own; where one fails, the others are ended."""
    env, limit = dict(os.environ if env is None else env), time.monotonic() + timeout
    with TemporaryDirectory() as output:
        processes = [start(words, output, cwd, {**env, **more}) for more in own]
        try:
            while running := [each for each in processes if each.exitcode is None]:
                if any(each.exitcode for each in processes):
                    break
                if time.monotonic() > limit:
                    raise TimeoutExpired(words, timeout)
                connection.wait([each.sentinel for each in running], 1)
        finally:
            code = next((each.exitcode for each in processes if each.exitcode), 0)
            for each in processes:
                each.kill()
                each.join()
        told = [Path(output, name).read_text() for name in ("stdout", "stderr")]
    return CompletedProcess(words, code, *told)
