"""The doors that the cases of `bad_inputs/*.yaml` go through, and what cannot be written down in a table."""

import json
import shutil
from pathlib import Path

import numpy as np
from conftest import run_as_main, write_jsonl
from safetensors.torch import load_file, save_file
from test_recipes import COMMON, OPTIONS
from tiny import save_checkpoint
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_causal_clf import LabelSpace, PromptTemplate, TextClassifier, Verbalizer
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data

ROOT = Path(__file__).parent.parent
WEIGHTS = "adapter_model.safetensors"


class Doors:
    """Puts what a case gives into a folder, and takes it through a door.

    Args:
        folder: Empty folder that everything of the case is in.
        model: Checkpoint of a tiny model.
        files: The three files of a single-label task.
        runs: Folder with a finished run of each approach.
        monkeypatch: To start the recipes with.
    """

    def __init__(self, folder, model, files, runs, monkeypatch):
        self.folder, self.model, self.files, self.runs, self.monkeypatch = folder, model, files, runs, monkeypatch
        self.run = folder / "run"

    def write(self, given):
        """Write the files that a case gives; it is bad from here on."""
        config = {"config.yaml": given["yaml"]} if "yaml" in given else {}
        for name, content in {**given.get("files", {}), **config}.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, list):
                write_jsonl(path, spelled_out(content))
            elif isinstance(content, bytes):
                path.write_bytes(content)
            else:
                path.write_text(self.placed(content), encoding="utf-8")
        if "run" in given:
            shutil.copytree(self.runs / given["run"], self.run)
        if "model" in given:
            shutil.copytree(self.model, self.folder / "model")
            BUILDERS[given["model"]](self.folder / "model")
        if "damage" in given:
            BUILDERS[given["damage"]](self.run)
        for name, changes in given.get("edit", {}).items():
            edit(self.run / name, {key: self.placed(value) for key, value in changes.items()})

    def open(self, door, given):
        """Go through a door, and return what is behind it."""
        if door.endswith(".py"):
            return self.recipe(door, given)
        arguments = given.get("arguments", {})
        if door == "TextClassifier":
            classifier = TextClassifier.from_pretrained(self.run)
            classifier.predict_proba(spelled_out(given.get("texts", ["the cat"])))
            return classifier
        if door == "scorer":
            return then(TextClassifier.from_pretrained(self.run).scorer, given)
        if door == "load_data":
            return load_data(DataArguments(**{**self.files, **self.splits(), **arguments}))
        if door == "LabelSpace":
            return then(LabelSpace(**arguments), given)
        labels = LabelSpace(**given.get("labels", {"names": ["sport", "business", "tech"]}))
        if door == "Verbalizer":
            return then(Verbalizer(labels, **arguments), given)
        assert door == "PromptTemplate"
        tokenizer = AutoTokenizer.from_pretrained(self.model)
        for name, value in given.get("tokenizer", {}).items():
            setattr(tokenizer, name, value)
        return PromptTemplate(**arguments).bind(tokenizer, Verbalizer(labels, **given.get("verbalizer", {})))

    def recipe(self, name, given):
        options = {**self.defaults(name, given), **given.get("arguments", {})}
        config = ["--config", str(self.folder / "config.yaml")] if "yaml" in given else []
        words = [part for key, value in options.items() if value is not None for part in spelled_argument(key, value)]
        self.monkeypatch.setattr("sys.argv", [name, *config, *map(self.placed, words)])
        run_as_main(ROOT / "recipes" / name)

    def defaults(self, recipe, given):
        """Arguments of a recipe with which everything would be right."""
        output = {"output_dir": "{folder}/out"}
        if recipe in ("predict.py", "export.py"):
            documents = {"test_file": self.files["test_file"]} if recipe == "predict.py" else {}
            return {"model_name_or_path": "{folder}/run", **documents, **output}
        model = {"model_name_or_path": "{folder}/model" if "model" in given else self.model}
        if recipe == "compare.py":
            return {**model, **self.files, **self.splits(), "baselines": ["majority", "tfidf"], **output}
        output["overwrite_output_dir"] = "true"  # there may be an earlier run
        return {**model, **self.files, **self.splits(), **output, **COMMON, **OPTIONS[recipe.removesuffix(".py")]}

    def splits(self):
        """The splits that the case brings itself."""
        names = {split: split.removesuffix("_file") for split in self.files}
        return {split: str(path) for split, name in names.items() for path in self.folder.glob(f"{name}.*")}

    def placed(self, text):
        """Fill in the folder of the case, and the model's."""
        if not isinstance(text, str):
            return text
        return text.replace("{folder}", str(self.folder)).replace("{model}", self.model)

    def unplaced(self, text):
        """The opposite: a message as it stands in the table."""
        return text.replace(str(self.folder), "{folder}").replace(self.model, "{model}")


def spelled_argument(name, value):
    return [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]


def spelled_out(value):
    """A text, or a row or list with some; `{repeat: text, times: n}` stands for a long one."""
    if isinstance(value, dict) and "repeat" in value:
        return value["repeat"] * value["times"]
    if isinstance(value, list):
        return [spelled_out(item) for item in value]
    return {key: spelled_out(item) for key, item in value.items()} if isinstance(value, dict) else value


def then(thing, given):
    for method, argument in given.get("then", {}).items():
        return getattr(thing, method)(argument)
    return thing


def edit(path, changes):
    """Change entries of a JSON file; those that are `(removed)` are removed."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value != "(removed)"}))


def truncate_to_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncate_to_first_key(path):
    """Cut JSON within its first key: what it holds, folders of this machine too, does not move the place."""
    path.write_bytes(path.read_bytes()[:8])


def change_weights(path, change):
    weights = load_file(path)
    save_file({name: change(name, weight).contiguous() for name, weight in weights.items()}, path)


def tokenizer_with_few_words(folder):
    """A tokenizer of three words, without a token for others."""
    words = Tokenizer(models.WordLevel({"cat": 0, "dog": 1, "</s>": 2}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.model = models.BPE(
        {"cat": 0, "dog": 1, "</s>": 2, "c": 3, "a": 4, "t": 5, "ca": 6}, [("c", "a"), ("ca", "t")]
    )
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", pad_token="</s>").save_pretrained(folder)


def tokenizer_of_a_larger_model(folder):
    words = Tokenizer(
        models.WordLevel({f"word{index}": index for index in range(5000)} | {"</s>": 5000}, unk_token="</s>")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", pad_token="</s>").save_pretrained(folder)


def checkpoint_of_another_rank(run):
    """An unfinished run in the output folder, with an adapter of rank 4 where the case trains rank 8."""
    shutil.copytree(run, run.parent / "out" / "checkpoint-2")
    (run.parent / "out" / "checkpoint-2" / "trainer_state.json").write_text("{}")


BUILDERS = {
    "checkpoint of another rank": checkpoint_of_another_rank,
    "adapter weights cut in half": lambda run: truncate_to_half(run / WEIGHTS),
    "adapter weights empty": lambda run: (run / WEIGHTS).write_bytes(b""),
    "adapter weights removed": lambda run: (run / WEIGHTS).unlink(),
    "adapter weights are a text": lambda run: (run / WEIGHTS).write_text(
        "version https://git-lfs.github.com/spec/v1\n"
    ),
    "adapter weights one too few": lambda run: save_file(
        dict(list(load_file(run / WEIGHTS).items())[1:]), run / WEIGHTS
    ),
    "adapter of another width": lambda run: change_weights(run / WEIGHTS, lambda _, weight: weight[:, :16]),
    "adapter weights are NaN": lambda run: change_weights(run / WEIGHTS, lambda _, weight: weight * np.nan),
    "classification.json cut off": lambda run: truncate_to_first_key(run / "classification.json"),
    "classification.json is a list": lambda run: (run / "classification.json").write_text("[]"),
    "classification.json removed": lambda run: (run / "classification.json").unlink(),
    "adapter_config.json cut off": lambda run: truncate_to_first_key(run / "adapter_config.json"),
    "tokenizer.json cut off": lambda run: truncate_to_first_key(run / "tokenizer.json"),
    "tokenizer files removed": lambda run: [path.unlink() for path in run.glob("tokenizer*")],
    "tokenizer with few words": tokenizer_with_few_words,
    "tokenizer of a larger model": tokenizer_of_a_larger_model,
    "model weights cut in half": lambda model: truncate_to_half(model / "model.safetensors"),
    "model weights removed": lambda model: (model / "model.safetensors").unlink(),
    "model config cut off": lambda model: truncate_to_first_key(model / "config.json"),
    "model config removed": lambda model: (model / "config.json").unlink(),
    "model of encoder type": lambda model: (model / "config.json").write_text('{"model_type": "bert"}'),
    "model of encoder-decoder type": lambda model: (model / "config.json").write_text('{"model_type": "t5"}'),
    "model of unknown type": lambda model: (model / "config.json").write_text('{"model_type": "crystal_ball"}'),
    "model of another architecture": lambda model: save_checkpoint(model, "gpt2", AutoTokenizer.from_pretrained(model)),
}
