"""Labelled documents in three splits, from files, the Hub or XML. Knows no tokenizer and no model."""
