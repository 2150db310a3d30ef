"""The embedding-based approach: a head on the hidden state of a backbone. Knows no label scoring."""
