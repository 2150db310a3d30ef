"""How a run starts: its folder, and what is asked of a folder."""

import pytest
from test_train import embedding_arguments

from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.embedding.arguments import EmbeddingTrainingArguments
from hf_causal_clf.instruction.arguments import InstructionTrainingArguments
from hf_causal_clf.training.output_folder import Settings, is_finished
from hf_causal_clf.training.starting import settle_output_dir


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"train_file": "data/tickets.csv"}, "tickets"),
        ({"train_file": "Anfragen März (neu).2025.jsonl"}, "Anfragen-Marz-neu-2025"),
        ({"train_file": "数据.csv"}, "documents"),
        ({"dataset_name": "fancyzhx/ag_news"}, "ag_news"),
        ({"dataset_name": "{folder}/my news/"}, "my-news"),
    ],
)
@pytest.mark.parametrize(
    ("kind", "approach"), [(EmbeddingTrainingArguments, "embed"), (InstructionTrainingArguments, "instruct")]
)
def test_by_default_the_output_folder_is_named_after_the_documents(
    tmp_path, monkeypatch, capsys, given, name, kind, approach
):
    (tmp_path / "my news").mkdir()
    (tmp_path / "documents" / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "documents")
    data = DataArguments(**{key: value.format(folder=tmp_path) for key, value in given.items()})
    arguments = kind()
    settle_output_dir(arguments, data, approach)
    assert arguments.output_dir == f"runs/{name}/{approach}"
    assert capsys.readouterr().out == f"output_dir is not given: this run goes to runs/{name}/{approach}.\n"


def test_an_output_folder_that_is_given_stays(tmp_path, capsys):
    arguments = EmbeddingTrainingArguments(str(tmp_path))
    settle_output_dir(arguments, DataArguments(train_file="tickets.csv"), "embed")
    assert arguments.output_dir == str(tmp_path)
    assert capsys.readouterr().out == ""


def test_asking_whether_a_run_is_finished_changes_nothing(checkpoint, files, tmp_path, capsys):
    data, model_arguments, arguments = embedding_arguments(checkpoint, tmp_path / "run", files)
    settings = Settings(data, model_arguments, arguments)
    assert not is_finished(tmp_path / "run", settings)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out.count("already finished") == 0
