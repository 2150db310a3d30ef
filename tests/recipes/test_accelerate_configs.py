"""recipes/accelerate_configs: what accelerate makes of each file, and the runs that a CPU can do with them."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import forking
import pytest
import yaml
from accelerate.commands import launch as accelerate_launch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils import launch as launchers
from test_parsing import TYPES
from test_recipes import arguments, run
from transformers.training_args import OptimizerNames

from hf_causal_clf.cli.parsing import parse_arguments
from hf_causal_clf.training.processes import check_launch

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "recipes" / "accelerate_configs"
FILES = sorted(FOLDER.glob("*.yaml"))
PREPARE = {
    "NO": lambda args: launchers.prepare_simple_launcher_cmd_env(args)[1],
    "MULTI_GPU": launchers.prepare_multi_gpu_env,
    "FSDP": launchers.prepare_multi_gpu_env,
    "DEEPSPEED": lambda args: launchers.prepare_deepspeed_cmd_env(args)[1],
}


def command(path):
    """The command in the first line of a file, after `accelerate launch`."""
    words = shlex.split(path.read_text().splitlines()[0].removeprefix("# "))
    assert words[:2] == ["accelerate", "launch"]
    return words[2:]


def environment(path, monkeypatch):
    """What accelerate would start the processes with, by the command in the file."""
    monkeypatch.chdir(ROOT)
    parsed = accelerate_launch.launch_command_parser().parse_args(command(path))
    parsed, defaults, _ = accelerate_launch._validate_launch_command(parsed)
    parsed.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    return PREPARE[defaults.distributed_type.value](parsed), parsed


def test_all_files_are_there():
    names = {"single_gpu", "multi_gpu", "fsdp_qlora", "deepspeed_zero2", "deepspeed_zero3"}
    assert {path.stem for path in FILES} == names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerate_reads_the_file_and_the_recipe_its_command(path, checkpoint, monkeypatch):
    config = load_config_from_file(str(path))  # unknown keys are errors
    known = set(accelerate_launch.launch_command_parser().parse_args(["x"]).__dict__)
    assert known.issuperset({*config.fsdp_config, *config.deepspeed_config})
    env, parsed = environment(path, monkeypatch)
    assert parsed.config_file == str(path.relative_to(ROOT))
    assert env["ACCELERATE_MIXED_PRECISION"] == ("bf16" if "deepspeed" in path.stem else "no")
    assert parsed.num_processes == yaml.safe_load(path.read_text())["num_processes"]
    assert parsed.training_script == "recipes/embed.py"
    model = ["--model_name_or_path", checkpoint]
    recipe_arguments = parse_arguments(TYPES["embed"], args=[*parsed.training_script_args, *model])
    model, training = recipe_arguments[1], recipe_arguments[-1]
    batch = training.per_device_train_batch_size * training.gradient_accumulation_steps * parsed.num_processes
    assert batch == 8
    assert model.load_in_4bit is (path.stem != "deepspeed_zero3")


def test_fsdp_plugin(monkeypatch):
    env, parsed = environment(FOLDER / "fsdp_qlora.yaml", monkeypatch)
    assert env["ACCELERATE_USE_FSDP"] == "true"
    for name, value in env.items():
        if name.startswith("FSDP_"):
            monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward, plugin.cpu_ram_efficient_loading) == (2, True, False)
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"
    recipe_arguments = parse_arguments(TYPES["embed"], args=parsed.training_script_args)
    model, training = recipe_arguments[1], recipe_arguments[-1]
    assert model.bnb_4bit_quant_storage == model.dtype == "bfloat16"
    assert training.optim == "adamw_torch"


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_plugin(stage, monkeypatch):
    env, _ = environment(FOLDER / f"deepspeed_zero{stage}.yaml", monkeypatch)
    assert env["ACCELERATE_USE_DEEPSPEED"] == "true"
    for name, value in env.items():
        if name.startswith("ACCELERATE_DEEPSPEED_"):
            monkeypatch.setenv(name, value)
    plugin = DeepSpeedPlugin()
    assert plugin.zero_stage == plugin.deepspeed_config["zero_optimization"]["stage"] == stage
    assert plugin.zero3_init_flag is plugin.zero3_save_16bit_model is (stage == 3)
    assert plugin.gradient_accumulation_steps == plugin.gradient_clipping == "auto"


def fsdp(recipe, options):
    accelerate = str(Path(sys.executable).with_name("accelerate"))
    config = ["--config_file", "recipes/accelerate_configs/fsdp_qlora.yaml", "--main_process_port", "0"]
    return subprocess.run(
        [accelerate, "launch", *config, "tests/fsdp_on_cpu.py", f"recipes/{recipe}.py", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "ACCELERATE_TORCH_DEVICE": "cpu"},
    )


def fsdp_at_once(recipe, options):
    """The same without `accelerate launch`: processes with the variables that it sets by the file."""
    with pytest.MonkeyPatch.context() as patch:
        env, _ = environment(FOLDER / "fsdp_qlora.yaml", patch)
    env = {name: value for name, value in env.items() if name.startswith(("ACCELERATE_", "FSDP_"))}
    words = ["tests/fsdp_on_cpu.py", f"recipes/{recipe}.py", *options]
    return forking.run_two(words, env={**env, "ACCELERATE_TORCH_DEVICE": "cpu", "ACCELERATE_USE_CPU": "false"})


@pytest.mark.parametrize(("recipe", "quantised", "fsdp"), [("embed", True, fsdp), ("instruct", False, fsdp_at_once)])
def test_fsdp_ends_as_one_process(recipe, quantised, fsdp, checkpoint, files, tmp_path, monkeypatch):
    options = {"load_in_4bit": "true", "bnb_4bit_quant_storage": "float32"} if quantised else {}
    options["num_train_epochs"] = "1"
    run(recipe, arguments(recipe, checkpoint, files, tmp_path / "one", **options), monkeypatch)
    half = {**options, "per_device_train_batch_size": "4"}
    done = fsdp(recipe, arguments(recipe, checkpoint, files, tmp_path / "two", **half))
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.findall(r"sharded layers: (\d+)", done.stdout) == ["2"]
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    for split in ("validation", "test"):
        assert two[split] == pytest.approx(one[split], abs=1e-4)
    for name in ("steps", "trainable_parameters", "total_parameters"):
        assert two["training"][name] == one["training"][name]


@pytest.mark.parametrize(
    ("kind", "processes", "optim", "message"),
    [
        ("NO", 1, "adamw_torch", "2 processes were started for GPUs, but there are none"),
        ("MULTI_CPU", 2, "adamw_torch", "accelerate has FSDP on GPUs only"),
        ("FSDP", 2, "adamw_8bit", "adamw_8bit cannot update the sharded weights"),
        ("FSDP", 2, "paged_adamw_32bit", "paged_adamw_32bit cannot update the sharded weights"),
    ],
)
def test_what_accelerate_passes_over_is_said(kind, processes, optim, message, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    state = SimpleNamespace(distributed_type=DistributedType(kind))
    sharded = {"fsdp": "", "deepspeed": None}  # by accelerate launch, not by the arguments
    own = {"n_gpu": 0, "world_size": processes, "distributed_state": state, "optim": OptimizerNames(optim)}
    training = SimpleNamespace(**own, **sharded)
    with pytest.raises(ValueError, match=message):
        check_launch(training)
    state = SimpleNamespace(distributed_type=DistributedType.FSDP)
    training = SimpleNamespace(n_gpu=0, world_size=2, distributed_state=state, optim="adamw_torch", **sharded)
    check_launch(training)
