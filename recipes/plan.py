r"""Say what more labels would bring, and which documents to label next.

    hf-causal-clf plan --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct --train_file tickets.csv \
        --test_file test.csv --unlabelled_file more.jsonl --output_dir plan

Every argument may stand in a YAML file (--config FILE.yaml); the command line wins.

How many: heads on the frozen features of a language model are trained on nested parts of the labelled documents, and an
inverse power law is fitted to their F1 on the test documents. Which ones: of --unlabelled_file, without those that are
labelled already, the --select documents that such a head is not sure of and that differ from one another. plan.json has
the curve and the forecast, which plan.html shows; to_label.jsonl the documents, with what is predicted of them;
argilla.json and label_studio.json the same for these tools.
"""

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a thread that waits leaves its core to others

from hf_causal_clf.cli.logs import hide_by_name

hide_by_name()

from hf_causal_clf.cli.parsing import parse_arguments
from hf_causal_clf.cli.starting import run_script
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data, note_document_mistakes
from hf_causal_clf.data.unlabelled import file_texts, new_texts
from hf_causal_clf.labelling.arguments import FrozenModelArguments, PlanArguments
from hf_causal_clf.labelling.forecast import check_number
from hf_causal_clf.labelling.judging import reader
from hf_causal_clf.labelling.plan import Known, choose_documents, forecast_labels, write_plan
from hf_causal_clf.runs.disk import lock_folder
from hf_causal_clf.training.output_folder import check_places

FOLDS = 5


def main() -> None:
    types = (PlanArguments, FrozenModelArguments, DataArguments)
    arguments, model, data_args = parse_arguments(types, __doc__, check=note_document_mistakes)
    output, name = Path(arguments.output_dir), model.model_name_or_path
    check_places(output, data_args, model_name_or_path=name)
    data = load_data(data_args, FOLDS)
    check_number(len(data.splits["train"]))
    texts = None
    if arguments.unlabelled_file:
        texts = new_texts(file_texts(arguments.unlabelled_file, data.text_column), data)
    lock_folder(output)
    output.mkdir(parents=True, exist_ok=True)
    features, reading = reader(data, model, model.cache(output))
    known = Known.of(data, features)
    plan = {
        "documents": len(known.train),
        "test_documents": len(data.splits["test"]),
        "f1_average": arguments.f1_average,
        "model": name,
        "reading": reading,
        "strength": known.strength,
        **forecast_labels(known, arguments.forecast_at, arguments.f1_average),
        "chosen": None,
    }
    if texts:
        options = (arguments.select, arguments.select_by, output, f"a head on {Path(name).name}")
        plan["chosen"] = choose_documents(known, texts, *options)
    write_plan(plan, output, with_documents=arguments.with_documents)


if __name__ == "__main__":
    run_script(main)
