r"""Distil a finished run into a small student: an encoder or decoder that learns the run's calibrated probabilities.

    hf-causal-clf distill --teacher runs/tickets/embed --model_name_or_path sentence-transformers/all-MiniLM-L6-v2 \
        --train_file tickets.csv --unlabelled_file more.jsonl --output_dir runs/tickets/student

Every argument may stand in a YAML file (--config FILE.yaml); the command line wins.

The student learns from the labelled documents of the teacher and, better, from any number of others, which the teacher
labels. Its run is like the teacher's: TextClassifier.from_pretrained(output_dir) reads it, and an encoder's folder is a
stock checkpoint. Started again after a kill, it goes on where scoring stopped; a training that was cut off, with
--resume_from_checkpoint true.
"""

import os
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a thread that waits leaves its core to others

from hf_causal_clf.cli.logs import hide_by_name

hide_by_name()

from hf_causal_clf.cli.mistakes import Mistakes
from hf_causal_clf.cli.parsing import parse_arguments
from hf_causal_clf.cli.processes import check_processes
from hf_causal_clf.cli.starting import run_script
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import note_document_mistakes
from hf_causal_clf.distillation.arguments import (
    DistillationArguments,
    StudentModelArguments,
    StudentTrainingArguments,
    settle_encoder,
    settle_learning_rate,
)
from hf_causal_clf.distillation.lesson import learn, prepare_lesson
from hf_causal_clf.distillation.students import (
    decoder_student,
    encoder_student,
    is_encoder,
    merge_adapters,
    prepare_encoder,
)
from hf_causal_clf.distillation.teacher import SCORES_FOLDER, Scores, Teacher, measured_teacher, taught_by
from hf_causal_clf.embedding.arguments import HeadArguments
from hf_causal_clf.finishing import finish_run, measure_run, print_run, save_run
from hf_causal_clf.runs.disk import how_to_go_on
from hf_causal_clf.runs.prior import priors_of
from hf_causal_clf.training.arguments import RunArguments
from hf_causal_clf.training.evaluated import evaluated_logits
from hf_causal_clf.training.facts import training_facts
from hf_causal_clf.training.starting import settle_output_dir, start_run
from hf_causal_clf.training.tracking import RunTracking
from hf_causal_clf.training.train import prepare, train


def main() -> None:
    check_processes()
    types = (
        *(DistillationArguments, DataArguments, StudentModelArguments, HeadArguments, RunArguments),
        StudentTrainingArguments,
    )
    parsed = parse_arguments(types, __doc__, check=note_document_mistakes)
    distill_args, data_args, model_args, head_args, run_args, training_args = parsed
    settle_output_dir(training_args, data_args, "distill")
    distill_args.check(training_args.output_dir, data_args, run_args, head_args)
    teacher = Teacher.read(distill_args.teacher, distill_args.teacher_revision)
    encoder = is_encoder(model_args.model_name_or_path, model_args.model_revision)
    if encoder:
        settle_encoder(model_args, head_args, run_args, training_args)
    settle_learning_rate(training_args, whole_encoder=encoder and not model_args.use_peft)

    others = (head_args, distill_args.content(teacher.identity, data_args))
    options = {"mistakes": Mistakes(), "prepare": prepare_encoder if encoder else prepare}
    start = start_run("distill", data_args, model_args, run_args, training_args, *others, **options)
    if start is None:  # it is finished already
        return
    data, tokenizer, settings, push = start
    teacher.check_labels(data.label_space)
    output = Path(training_args.output_dir)
    parts = (data, tokenizer, model_args)
    if encoder:
        student = encoder_student(*parts, run_args, training_args)
    else:
        student = decoder_student(*parts, head_args, run_args, training_args)

    folder = Path(distill_args.teacher_scores or output / SCORES_FOLDER)
    scores = Scores(teacher, data.label_space, folder, training_args.per_device_eval_batch_size)
    lesson = prepare_lesson(distill_args, teacher, data, scores, student, training_args)
    reached = measured_teacher(teacher, data, scores)
    scores.close()

    trainer = learn(lesson, student, training_args)
    tracking = RunTracking(trainer)
    training = train(trainer, settings.to_dict())
    facts = training_facts(trainer, data, data_args, model_args) | {"distillation": lesson.facts | taught_by(teacher)}
    facts |= priors_of([replace(student.run, training=facts), teacher.run])
    known = evaluated_logits(trainer)
    facts |= merge_adapters(trainer, student.run)
    saved = save_run(trainer, tokenizer, replace(student.run, training=facts))
    options = {"batch_size": training_args.per_device_eval_batch_size, "target_error": run_args.target_error}
    measured = measure_run(
        saved, data, training, validation=known, chosen=training_args.load_best_model_at_end, **options
    )
    measured.metrics["teacher"] = reached
    ending = {"log_history": trainer.state.log_history, "with_documents": run_args.with_documents}
    finish_run(saved, data, measured, settings=settings, **ending)
    if distill_args.teacher_scores is None:
        scores.remove()
    print_run(output, measured.metrics, multi_label=data.label_space.multi_label)
    tracking.send(output, measured.metrics["test"])
    if push:
        trainer.push_to_hub()


if __name__ == "__main__":
    run_script(main, go_on=how_to_go_on)
