r"""Find labels that are probably wrong, near-duplicates, and documents on which a classifier does worse.

    hf-causal-clf audit --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct --train_file documents.jsonl \
        --output_dir audit --with_documents true

Every argument may stand in a YAML file (--config FILE.yaml); the command line wins.

Each labelled document is judged by models that did not see its label: by logistic regressions in folds, on the frozen
features of a language model, which takes one pass over the documents, and on their words; or, where model_name_or_path
is a finished run that was trained with --folds, by its trainings. audit.parquet has id, label, suggested, score (how
sure it is that the label is wrong) of each document, the surest first; audit.json the rest: near-duplicates with
different labels, test documents (--test_file) that are nearly in training, documents that no label fits, labels taken
for others in one direction, and lengths, labels and values of --slice_columns with a lower F1. audit.html shows both,
with the text of the documents where --with_documents says so. --fixed_file takes the corrections back in.
"""

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a thread that waits leaves its core to others

from hf_causal_clf.cli.logs import hide_by_name

hide_by_name()

from hf_causal_clf.cli.parsing import parse_arguments
from hf_causal_clf.cli.starting import run_script
from hf_causal_clf.cli.telling import tell
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data, note_document_mistakes
from hf_causal_clf.labelling.arguments import AuditArguments, FrozenModelArguments
from hf_causal_clf.labelling.audit import tell_audit, write_audit, write_page
from hf_causal_clf.labelling.corrections import write_fixed
from hf_causal_clf.labelling.judging import judge
from hf_causal_clf.labelling.parts import column_parts, length_parts, read_columns
from hf_causal_clf.runs.disk import lock_folder


def main() -> None:
    types = (AuditArguments, FrozenModelArguments, DataArguments)
    arguments, model, data_args = parse_arguments(types, __doc__, check=note_document_mistakes)
    arguments.check(data_args, model)
    output = Path(arguments.output_dir)
    lock_folder(output)
    if arguments.fixed_file:
        data = load_data(data_args, arguments.folds, cut_test=False)
        path, changed = write_fixed(data_args, data, arguments.fixed_file, output)
        tell(f"{changed:,} labels are corrected in {path}. Train with --train_file {path}")
        return
    columns = {}
    if arguments.slice_columns:
        columns = read_columns(Path(data_args.train_file), arguments.slice_columns, data_args.id_column)
    judged = judge(data_args, model, arguments.folds, model.cache(output))
    ids = judged.data.splits["train"]["id"][:]
    parts = length_parts(judged.data.texts("train")) | column_parts(columns, ids)
    summary = write_audit(judged, output, similarity=arguments.similarity, parts=parts)
    write_page(judged, summary, output, with_documents=arguments.with_documents)
    tell_audit(summary, output)


if __name__ == "__main__":
    run_script(main)
