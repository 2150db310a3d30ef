"""The command `hf-causal-clf`: what it shows and how it starts a recipe."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser
from test_parsing import TYPES
from test_recipes import arguments

import hf_causal_clf
import hf_causal_clf_command as command
from hf_causal_clf.cli.mistakes import Mistakes
from hf_causal_clf.cli.parsing import _Parser
from hf_causal_clf.comparison.arguments import ComparisonArguments

ROOT = Path(__file__).parents[1]


def run(*words, **options):
    """Run the command in a process."""
    return subprocess.run(
        [sys.executable, "-m", "hf_causal_clf_command", *words], cwd=ROOT, capture_output=True, text=True, **options
    )


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], ["embed", "--help"], ["benchmark", "-h"]])
def test_help_and_version_import_nothing_heavy_and_take_no_time(words):
    code = (
        f"import sys; sys.argv[1:] = {words}; import hf_causal_clf_command as command; command.main(); "
        "heavy = {'torch', 'transformers', 'trl', 'accelerate', 'numpy', 'hf_causal_clf'}; "
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert time.monotonic() - start < 2
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


def test_help_lists_the_recipes_and_the_version_is_the_packages(capsys, monkeypatch):
    text = command.overview()
    for name in command.RECIPES:
        assert f"\n  {name} " in text
        assert (command.recipes() / "help" / f"{name}.txt").is_file()
        assert (command.recipes() / f"{name}.py").is_file()
    assert max(map(len, text.splitlines())) <= 100
    monkeypatch.setattr(sys, "argv", ["hf-causal-clf", "--version"])
    command.main()
    assert capsys.readouterr().out == f"hf-causal-clf {hf_causal_clf.__version__}\n"


@pytest.mark.parametrize(("name", "hint"), [("embd", "Did you mean 'embed'?"), ("x", "There are embed, instruct,")])
def test_a_recipe_that_there_is_not(name, hint):
    done = run(name)
    assert done.returncode == 2
    assert done.stderr.startswith(f"There is no recipe {name!r}. {hint}")


def test_names_that_the_launcher_and_a_recipe_share_are_known():
    launcher = {name for action in launch_command_parser()._actions for name in action.option_strings}
    for types in (*TYPES.values(), (ComparisonArguments,)):
        recipe = {name for action in _Parser(types, Mistakes(), None)._actions for name in action.option_strings}
        shared = {name for name in launcher & recipe if name.startswith("--") and "-" not in name[2:]}
        assert shared <= {*command.OF_THE_RECIPE, "--help"}
    assert set(command.OF_THE_RECIPE) <= launcher


@pytest.mark.parametrize(
    ("words", "launching"),
    [
        ("--config a.yaml --lora_r 8", ""),
        ("--num_processes 2 --lora_r 8", "--num_processes 2"),
        ("--lora_r 8 --cpu --num-processes=2 --seed 1", "--cpu --num-processes=2"),
        ("--config_file a.yaml --config b.yaml", "--config_file a.yaml"),
        ("--debug underflow_overflow --gradient_accumulation_steps 4 --gradient-accumulation-steps 4", ""),
        ("--module --no_python -m x", ""),
        ("--multi_gpu --gpu_ids 0,1 --optim adamw_torch", "--multi_gpu --gpu_ids 0,1"),
    ],
)
def test_options_are_told_apart_wherever_they_stand(words, launching):
    found, options = command.told_apart(words.split(), launch_command_parser())
    assert found == launching.split()
    assert sorted(found + options) == sorted(words.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--num_processes", "--num_processes, an option of accelerate launch, takes a whole number from 1, got none."),
        ("--num_processes two", "takes a whole number from 1, got 'two'."),
        ("--num-processes=two", "--num_processes, an option of accelerate launch, takes a whole number from 1, got 't"),
        ("--num_processes 0", "takes a whole number from 1, got '0'."),
        ("--num_machines -1", "takes a whole number from 1, got '-1'."),
        ("--num_processes --train_file x", "takes a whole number from 1, got none."),
        ("--num_processes -h", "takes a whole number from 1, got none."),
        ("--machine_rank first", "takes a whole number, got 'first'."),
        ("--rdzv_conf", "takes a text, got none."),
        ("--mixed_precision fp1 --seed 1", "takes one of no, fp16, bf16, fp8, got 'fp1'."),
        ("--cpu=true", "--cpu, an option of accelerate launch, takes no value, got 'true'."),
        ("--fp8_pad_inner_dim maybe", "takes true or false, got 'maybe'."),
    ],
)
def test_a_wrong_value_of_the_launcher_is_told(words, message):
    with pytest.raises(ValueError, match="an option of accelerate launch") as raised:
        command.told_apart(words.split(), launch_command_parser())
    assert message in str(raised.value)


@pytest.mark.parametrize("words", ["--num_processes", "--num_processes two", "--num_processes --train_file x"])
def test_a_wrong_value_of_the_launcher_is_one_line(words, monkeypatch, capsys):
    monkeypatch.setattr("accelerate.commands.launch.simple_launcher", None)  # put back at the end
    with pytest.raises(SystemExit) as end:
        command.start("embed", words.split())
    assert end.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("--num_processes, an option of accelerate launch, takes a whole number from 1, got ")
    assert told.err.count("\n") == 1


def filled(words=(), devices=0, monkeypatch=None):
    parsed = launch_command_parser().parse_args([*words, "recipe.py"])
    monkeypatch.setattr("torch.accelerator.device_count", lambda: devices)
    command.fill_in(parsed)
    return parsed


@pytest.mark.parametrize(
    ("words", "devices", "processes", "threads"),
    [
        ([], 0, 1, 8),
        ([], 2, 2, 4),
        (["--gpu_ids", "0"], 4, 1, 8),
        (["--gpu_ids", "0,2"], 4, 2, 4),
        (["--gpu_ids", "all"], 4, 4, 2),
        (["--gpu_ids", "0", "--num_processes", "2"], 4, 2, 4),
        (["--gpu_ids", "0,1", "--cpu"], 4, 1, 8),
        (["--cpu"], 2, 1, 8),
        (["--cpu", "--num_processes", "4"], 0, 4, 2),
        (["--cpu", "--num_processes", "16"], 0, 16, 1),
        (["--num_processes", "1", "--num_cpu_threads_per_process", "3"], 2, 1, 3),
    ],
)
def test_without_options_a_process_has_all_cores(words, devices, processes, threads, monkeypatch, tmp_path):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("accelerate.commands.config.config_args.default_config_file", str(tmp_path / "none"))
    parsed = filled(words, devices, monkeypatch)
    assert (parsed.num_processes, parsed.num_cpu_threads_per_process) == (processes, threads)
    assert (parsed.num_machines, parsed.mixed_precision, parsed.dynamo_backend) == (1, "no", "no")


def test_a_configuration_file_and_the_environment_have_their_say(monkeypatch, tmp_path):
    assert filled(["--config_file", "a.yaml"], 0, monkeypatch).num_processes is None
    (tmp_path / "default.yaml").touch()
    monkeypatch.setattr("accelerate.commands.config.config_args.default_config_file", str(tmp_path / "default.yaml"))
    assert filled([], 0, monkeypatch).num_processes is None
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert filled(["--cpu"], 0, monkeypatch).num_cpu_threads_per_process is None  # accelerate takes it


def test_mistakes_of_the_recipe_have_its_exit_code_and_nothing_is_said_beside():
    done = run("embed", "--model_name_or_path", "m", "--train_file", "nowhere.jsonl", "--lora_rr", "8")
    assert done.returncode == 2
    assert "Unknown arguments: '--lora_rr' (did you mean '--lora_r'?)" in done.stderr
    assert "Traceback" not in done.stderr
    assert "default" not in done.stderr  # of accelerate, about values that were not passed


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--cpu", "--multi_gpu"], "only use one of"), (["--config_file", "nowhere.yaml"], "nowhere.yaml")],
)
def test_mistakes_of_the_launchers_options_are_told_without_a_traceback(words, message):
    done = run("embed", *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["compare", "export"])
def test_recipes_that_launch_nothing_start_at_once(name, monkeypatch):
    started = []
    monkeypatch.setattr("os.execvpe", lambda *command: started.append(command) or sys.exit(0))
    monkeypatch.setattr(sys, "argv", ["hf-causal-clf", name, "--output_dir", "x"])
    with pytest.raises(SystemExit):
        command.main()
    assert started[0][1] == [sys.executable, str(ROOT / "recipes" / f"{name}.py"), "--output_dir", "x"]


@pytest.mark.parametrize(
    ("words", "sent", "code"),
    [
        ([], signal.SIGINT, 130),
        ([], signal.SIGTERM, -signal.SIGTERM),
        (["--cpu", "--num_processes", "2"], signal.SIGINT, 130),
        (["--cpu", "--num_processes", "2"], signal.SIGTERM, 128 + signal.SIGTERM),
    ],
)
def test_signals_end_all_processes(words, sent, code, checkpoint, files, tmp_path):
    """One process becomes the recipe; of several, the launcher passes SIGTERM on, and Ctrl-C reaches all."""
    options = arguments(
        "embed", checkpoint, files, tmp_path / "run", num_train_epochs="500", early_stopping_patience="0"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "hf_causal_clf_command", "embed", *words, *options],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        limit = time.monotonic() + 200
        while not list((tmp_path / "run").glob("checkpoint-*")) and time.monotonic() < limit:
            time.sleep(0.2)
        if sent == signal.SIGINT:
            os.killpg(process.pid, sent)
        else:
            process.send_signal(sent)
        _, told = process.communicate(timeout=60)  # returns when no process holds the pipe
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == code
    assert told.count("Stopped. To go on") == (sent == signal.SIGINT)


def test_a_process_that_is_killed_is_named(capsys):
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    def fails(*codes):
        failures = {rank: ProcessFailure(rank, 1, code, "") for rank, code in enumerate(codes)}
        return command.exit_code(lambda: (_ for _ in ()).throw(ChildFailedError("x", failures)))

    assert fails(2, -signal.SIGTERM) == 2
    assert capsys.readouterr().err == ""
    assert fails(-signal.SIGKILL) == 1
    assert capsys.readouterr().err == "Process 0 was ended by SIGKILL.\n"
    assert command.exit_code(lambda: None) == 0


def test_a_configuration_file_can_ask_for_cpu_processes(monkeypatch, tmp_path):
    """What accelerate launch itself does not do without MPI."""
    started = []
    monkeypatch.setattr("accelerate.commands.launch.simple_launcher", None)  # put back at the end
    monkeypatch.setattr("torch.distributed.run.run", started.append)
    monkeypatch.setattr("os.environ", dict(os.environ))
    config = tmp_path / "cpu.yaml"
    settings = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_CPU", "num_machines": 1}
    config.write_text(json.dumps({**settings, "num_processes": 3, "mixed_precision": "no", "use_cpu": True}))
    with pytest.raises(SystemExit) as end:
        command.start("predict", ["--output_dir", "x", "--config_file", str(config)])
    assert end.value.code == 0
    assert isinstance(started[0], argparse.Namespace)
    assert (started[0].nproc_per_node, started[0].training_script_args) == ("3", ["--output_dir", "x"])
    assert os.environ["ACCELERATE_USE_CPU"] == "True"
