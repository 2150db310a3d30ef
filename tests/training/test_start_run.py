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
        ({"train_file": "数据.csv"}, "documents-5440f742"),
        ({"train_file": "票.csv"}, "documents-f7f6ebe8"),
        ({"train_file": "票 A.csv"}, "A-c1a053b9"),
        ({"train_file": "-.csv"}, "documents-3973e022"),
        ({"train_file": "../reviews/train.csv"}, "reviews-train"),
        ({"train_file": "Train.jsonl"}, "documents-Train"),
        ({"train_file": "a/data.csv"}, "a-data"),
        ({"dataset_name": "fancyzhx/ag_news"}, "fancyzhx-ag_news"),
        ({"dataset_name": "org/glue", "dataset_config": "sst2"}, "org-glue-sst2"),
        ({"dataset_name": "other/glue", "dataset_config": "cola"}, "other-glue-cola"),
        ({"dataset_name": "imdb"}, "imdb"),
        ({"dataset_name": "{folder}/my news/"}, "my-news"),
        ({"dataset_name": "{folder}/my news", "dataset_config": "en"}, "my-news-en"),
        ({"dataset_name": "{folder}/news/data"}, "news-data"),
    ],
)
@pytest.mark.parametrize(
    ("kind", "approach"), [(EmbeddingTrainingArguments, "embed"), (InstructionTrainingArguments, "instruct")]
)
def test_by_default_the_output_folder_is_named_after_the_documents(
    tmp_path, monkeypatch, capsys, given, name, kind, approach
):
    (tmp_path / "my news").mkdir()
    (tmp_path / "news" / "data").mkdir(parents=True)
    (tmp_path / "documents" / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "documents")
    data = DataArguments(**{key: value.format(folder=tmp_path) for key, value in given.items()})
    arguments = kind()
    settle_output_dir(arguments, data, approach)
    assert arguments.output_dir == f"runs/{name}/{approach}"
    assert capsys.readouterr().out == f"output_dir is not given: this run goes to runs/{name}/{approach}.\n"


@pytest.mark.parametrize(
    ("kind", "approach"), [(EmbeddingTrainingArguments, "embed"), (InstructionTrainingArguments, "instruct")]
)
def test_no_output_folder_is_the_default(kind, approach):
    arguments = kind(output_dir=None)
    settle_output_dir(arguments, DataArguments(train_file="tickets.csv"), approach)
    assert arguments.output_dir == f"runs/tickets/{approach}"


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
