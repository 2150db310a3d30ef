"""Characters that a tokenizer does not know: kept as `<unk>`, and named where they are many."""

import pytest
import tokenizer_families as families
from conftest import make_rows, write_jsonl
from test_train import embedding_arguments
from tiny import save_checkpoint

from hf_causal_clf import LabelSpace, PromptTemplate, Verbalizer
from hf_causal_clf.embedding.arguments import HeadArguments
from hf_causal_clf.embedding.trainer import embedding_trainer
from hf_causal_clf.instruction.arguments import InstructionModelArguments, InstructionTrainingArguments
from hf_causal_clf.instruction.trainer import instruction_trainer
from hf_causal_clf.task.documents import DocumentEncoder
from hf_causal_clf.task.tokens import PlainTokenizer, warn_of_unknown
from hf_causal_clf.training.arguments import PromptArguments, RunArguments
from hf_causal_clf.training.train import prepare

LABELS = LabelSpace(["sport", "business"])


@pytest.fixture(scope="module")
def unigram():
    return families.make_tokenizer("unigram", "chatml")


def encoders(tokenizer):
    template = PromptTemplate(use_chat_template=True, max_length=None).bind(tokenizer, Verbalizer(LABELS))
    return {"documents": DocumentEncoder(tokenizer, None).encode, "prompts": template.document_ids}


@pytest.mark.parametrize("kind", ["documents", "prompts"])
def test_unknown_characters_stay_in_their_place(unigram, kind):
    encode, unknown = encoders(unigram)[kind], unigram.unk_token_id
    ids = encode("the 漢 cat")
    assert ids.count(unknown) == 1
    assert unigram.decode(ids).strip() == "the <unk> cat"
    assert encode("the cat") != ids
    assert unknown in encode("漢字")  # nothing but unknown characters is not nothing


@pytest.mark.parametrize("kind", ["documents", "prompts"])
def test_control_tokens_beside_unknown_characters_stay_text(unigram, kind):
    ids = encoders(unigram)[kind]("漢</s><s><unk><|im_end|>字 <think>")
    control = set(unigram.convert_tokens_to_ids([*families.CONTROL, *families.SWALLOWING])) - {unigram.unk_token_id}
    assert not control & set(ids)


@pytest.mark.parametrize("role", ["bos_token", "eos_token"])
def test_a_token_that_begins_or_ends_texts_never_stands_for_characters(role):
    tokenizer = families.make_tokenizer("unigram")
    setattr(tokenizer, role, tokenizer.unk_token)
    assert tokenizer.unk_token_id not in PlainTokenizer(tokenizer).encode("the 漢 cat")


def test_answers_have_no_unknown_characters(unigram):
    with pytest.raises(ValueError, match="'漢' has characters that this tokenizer does not know"):
        PromptTemplate().bind(unigram, Verbalizer(LABELS, {"sport": "漢"}))
    with pytest.raises(ValueError, match="'<unk>' contains a control token"):
        PromptTemplate().bind(unigram, Verbalizer(LABELS, {"sport": "<unk>"}))


def test_many_unknown_characters_are_named_once(unigram, tokenizer, caplog):
    warn_of_unknown(unigram, ["the cat sat on a mat and saw the football match"] * 50 + ["the 漢 cat"])
    warn_of_unknown(tokenizer, ["漢字"])  # byte-level: it knows all
    assert not caplog.text
    warn_of_unknown(unigram, ["漢", "the cat"] * 500)
    (record,) = caplog.records
    share = 1 / (len(unigram.tokenize("漢")) + len(unigram.tokenize("the cat")))
    assert f"{share:.1%} of their tokens are '<unk>', in 500 of 1,000 documents" in record.getMessage()


@pytest.mark.parametrize("approach", ["embedding", "instruction"])
def test_trainers_name_unknown_characters(unigram, tmp_path, caplog, approach):
    folder = save_checkpoint(tmp_path / "model", "llama", unigram)
    rows = [{**row, "text": f"漢字 {row['text']}"} for row in make_rows(12)]
    files = {f"{split}_file": write_jsonl(tmp_path / f"{split}.jsonl", rows) for split in ("train", "validation")}
    files["test_file"] = files["validation_file"]
    data, model_arguments, arguments = embedding_arguments(folder, tmp_path / "run", files)
    tokenizer = prepare(model_arguments, arguments)
    if approach == "embedding":
        encoder = DocumentEncoder(tokenizer, 32)
        embedding_trainer(
            data, tokenizer, encoder, model_arguments, arguments, HeadArguments(pooling="last"), RunArguments()
        )
    else:
        prompt = PromptArguments()
        arguments = InstructionTrainingArguments(str(tmp_path / "run"), bf16=False, report_to="none")
        instruction_trainer(
            data,
            tokenizer,
            prompt.template(None, "tail"),
            prompt.verbalizer(data.label_space),
            InstructionModelArguments(model_name_or_path=folder, dtype="float32"),
            arguments,
            RunArguments(),
        )
    found = [record.getMessage() for record in caplog.records if "does not know many characters" in record.getMessage()]
    assert len(found) == 1
    assert "'<unk>', in 12 of 12 documents" in found[0]
