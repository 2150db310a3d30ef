"""Fine-tune a decoder-only language model as a text classifier, instruction-based: the label is the answer to a prompt.

    accelerate launch recipes/instruct.py --config recipes/configs/quickstart/instruct.yaml [--lora_r 32 …]

Every argument goes into the YAML file or on the command line, which wins. The finished run in output_dir is read by
TextClassifier.from_pretrained(output_dir).
"""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL's trainers report each run otherwise

from hf_causal_clf.cli.logs import hide_by_name

hide_by_name()

from hf_causal_clf.cli.mistakes import Mistakes
from hf_causal_clf.cli.parsing import parse_arguments
from hf_causal_clf.cli.processes import start_cpu_processes
from hf_causal_clf.cli.starting import run_script
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import check_documents
from hf_causal_clf.finishing import describe_run, evaluate_run, instruction, save_run
from hf_causal_clf.instruction.arguments import InstructionModelArguments, InstructionTrainingArguments
from hf_causal_clf.instruction.trainer import instruction_trainer
from hf_causal_clf.runs.disk import how_to_go_on
from hf_causal_clf.training.arguments import PromptArguments, RunArguments
from hf_causal_clf.training.facts import training_facts
from hf_causal_clf.training.starting import start_run
from hf_causal_clf.training.tracking import RunTracking
from hf_causal_clf.training.train import train


def main() -> None:
    start_cpu_processes()
    types = (DataArguments, InstructionModelArguments, PromptArguments, RunArguments, InstructionTrainingArguments)
    data_args, model_args, prompt_args, run_args, training_args = parse_arguments(types, __doc__, check=check_documents)

    mistakes = Mistakes()
    with mistakes.noted():
        template = prompt_args.template(training_args.max_length, run_args.truncation)
    start = start_run("instruct", data_args, model_args, run_args, training_args, prompt_args, mistakes=mistakes)
    if start is None:  # it is finished already
        return
    data, tokenizer, settings, push = start
    verbalizer = prompt_args.verbalizer(data.label_space)
    template = template.reserving(tokenizer, verbalizer, data.splits["train"]["label"])
    prompt = template.bind(tokenizer, verbalizer)

    trainer = instruction_trainer(data, tokenizer, template, verbalizer, model_args, training_args, run_args)
    tracking = RunTracking(trainer)
    training = train(trainer)

    description = describe_run(
        data.label_space,
        model_args,
        max_length=training_args.max_length,
        truncation=run_args.truncation,
        training=training_facts(trainer, data, data_args, model_args, prompt),
        **instruction(template, verbalizer),
    )
    saved = save_run(trainer, tokenizer, description)
    batch_size = training_args.per_device_eval_batch_size
    history = trainer.state.log_history
    metrics = evaluate_run(saved, data, training, batch_size=batch_size, log_history=history, settings=settings)
    tracking.send(Path(training_args.output_dir), metrics["test"])
    if push:
        trainer.push_to_hub()


if __name__ == "__main__":
    run_script(main, go_on=how_to_go_on)
