import numpy as np
import tiny

from hf_causal_clf import LabelSpace, PromptTemplate, Verbalizer
from hf_causal_clf.instruction.label_sets import LabelSetSearch
from hf_causal_clf.instruction.tree_attention import TreeForward


def test_answers_too_improbable_for_a_float_keep_their_ratios(tokenizer):
    labels = LabelSpace(["sport", "business", "tech"], multi_label=True)
    encoder = PromptTemplate().bind(tokenizer, Verbalizer(labels))
    forward = TreeForward(tiny.make_causal_lm("llama", len(tokenizer)))
    search = LabelSetSearch(forward, encoder, 0.999999, 99)
    chain = [*encoder.document_ids("the cat"), *encoder.suffix_ids]
    edges, context = forward(forward.start(encoder.prefix_ids), [chain], search.root_trie)
    expected, _ = search.run(edges, context)
    first = [edge for edge, (row, _) in enumerate(search.root_trie.edges) if row == 0]
    edges[:, first] -= 900  # exp(-900) is 0 in float64
    probabilities, uncovered = search.run(edges, context)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    assert uncovered.max() < 1e-4
