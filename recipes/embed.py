"""Fine-tune a decoder-only language model as a text classifier, embedding-based: a linear head on the last token.

    hf-causal-clf embed --model_name_or_path HuggingFaceTB/SmolLM2-135M --train_file tickets.csv [--lora_r 16 …]

In a clone, `accelerate launch recipes/embed.py` is the same. Every argument goes on the command line or into a YAML
file (--config FILE.yaml); the command line wins. TextClassifier.from_pretrained(output_dir) reads the finished run.
"""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a thread that waits leaves its core to others

from hf_causal_clf.cli.logs import hide_by_name

hide_by_name()

from hf_causal_clf.backbone.settings import base_model_of
from hf_causal_clf.cli.mistakes import Mistakes
from hf_causal_clf.cli.parsing import parse_arguments
from hf_causal_clf.cli.processes import check_processes
from hf_causal_clf.cli.starting import run_script
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import note_document_mistakes
from hf_causal_clf.embedding.arguments import EmbeddingModelArguments, EmbeddingTrainingArguments, HeadArguments
from hf_causal_clf.embedding.reading import choose_reading, readings
from hf_causal_clf.embedding.trainer import embedding_trainer
from hf_causal_clf.finishing import describe_run, finish_run, measure_run, print_run, save_run
from hf_causal_clf.folding import train_folds
from hf_causal_clf.runs.disk import how_to_go_on
from hf_causal_clf.task.documents import DocumentEncoder
from hf_causal_clf.training.arguments import PromptArguments, RunArguments
from hf_causal_clf.training.evaluated import evaluated_logits
from hf_causal_clf.training.facts import training_facts
from hf_causal_clf.training.starting import start_run
from hf_causal_clf.training.tracking import RunTracking
from hf_causal_clf.training.train import train


def main() -> None:
    check_processes()
    types = (
        *(DataArguments, EmbeddingModelArguments, HeadArguments, PromptArguments, RunArguments),
        EmbeddingTrainingArguments,
    )
    data_args, model_args, head_args, prompt_args, run_args, training_args = parse_arguments(
        types, __doc__, check=note_document_mistakes
    )

    mistakes = Mistakes()
    with mistakes.noted():
        head_args.check_prompt(prompt_args)
    start = start_run(
        "embed", data_args, model_args, run_args, training_args, head_args, prompt_args, mistakes=mistakes
    )
    if start is None:  # it is finished already
        return
    data, tokenizer, settings, push = start
    if head_args.head_init == "verbalizer":
        limits = (training_args.max_length, run_args.truncation, run_args.long_documents)
        template = replace(prompt_args.template(*limits), answer_tokens=0)
        encoder = prompt = template.bind(tokenizer, prompt_args.verbalizer(data.label_space))
    else:
        prompt = None
        limits = {"max_length": training_args.max_length, "truncation": run_args.truncation}
        batch_size, candidates = training_args.per_device_eval_batch_size, readings(head_args.pooling, head_args.suffix)
        reading = choose_reading(data, tokenizer, model_args, candidates, **limits, batch_size=batch_size)
        head_args = replace(head_args, pooling=reading.pooling)
        limits |= {"suffix": reading.suffix, "long_documents": run_args.long_documents}
        encoder = DocumentEncoder(tokenizer, **limits)

    head = {"pooling": head_args.pooling, "head_init": head_args.start(training_args)}
    run = describe_run(encoder, base_model_of(model_args), data.label_space, **head)
    parts = {"model_arguments": model_args, "head_arguments": head_args, "run_arguments": run_args}
    build = partial(embedding_trainer, tokenizer=tokenizer, encoder=encoder, **parts)
    held_out = train_folds(build, data, tokenizer, run, training_args, settings)
    trainer = build(data, training_arguments=training_args)
    tracking = RunTracking(trainer)
    training = train(trainer, settings.to_dict())

    facts = training_facts(trainer, data, data_args, model_args, prompt)
    known = evaluated_logits(trainer) if held_out is None else held_out
    saved = save_run(trainer, tokenizer, replace(run, training=facts))
    options = {"batch_size": training_args.per_device_eval_batch_size}
    options |= {"target_error": run_args.target_error, "chosen": training_args.load_best_model_at_end}
    measured = measure_run(saved, data, training, validation=known, **options)
    ending = {"log_history": trainer.state.log_history, "with_documents": run_args.with_documents}
    finish_run(saved, data, measured, settings=settings, **ending)
    print_run(Path(training_args.output_dir), measured.metrics, multi_label=data.label_space.multi_label)
    tracking.send(Path(training_args.output_dir), measured.metrics["test"])
    if push:
        trainer.push_to_hub()


if __name__ == "__main__":
    run_script(main, go_on=how_to_go_on)
