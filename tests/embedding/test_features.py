"""Features of a frozen backbone, against those of each document alone."""

import numpy as np
import pytest
import torch
from conftest import make_rows
from tiny import save_checkpoint
from transformers import AutoModel

from hf_causal_clf.embedding.features import pooled_features
from hf_causal_clf.task.documents import DocumentEncoder


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_features_are_those_of_each_document_alone(name, tokenizer, tmp_path):
    model = AutoModel.from_pretrained(save_checkpoint(tmp_path, name, tokenizer), dtype=torch.float32).train()
    documents = DocumentEncoder(tokenizer, 12)
    texts = [row["text"] for row in make_rows(15)]
    found = pooled_features(model, documents, texts, batch_size=4)
    assert model.training  # put back as it was
    with torch.no_grad():
        model.eval()
        alone = [model(torch.tensor([documents.encode(text)])).last_hidden_state[0] for text in texts]
    np.testing.assert_allclose(found["last"], torch.stack([hidden[-1] for hidden in alone]).numpy(), atol=1e-4)
    np.testing.assert_allclose(found["mean"], torch.stack([hidden.mean(0) for hidden in alone]).numpy(), atol=1e-4)
    assert all(matrix.dtype == np.float32 for matrix in found.values())


def test_a_document_in_chunks_has_the_mean_of_their_features(checkpoint, tokenizer):
    model = AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    documents = DocumentEncoder(tokenizer, 12, suffix=" cat", long_documents="chunks")
    texts = ["the cat", "the football match and the shares in the bank fell " * 2, "phones"]
    chunks = [documents.chunks(text) for text in texts]
    assert [len(found) > 1 for found in chunks] == [False, True, False]
    found = pooled_features(model, documents, texts, batch_size=2)["last"]
    with torch.no_grad():
        alone = [[model(torch.tensor([ids])).last_hidden_state[0, -1].numpy() for ids in each] for each in chunks]
    np.testing.assert_allclose(found, [np.mean(each, axis=0) for each in alone], atol=1e-4)
