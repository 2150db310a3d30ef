"""The instruction-based approach: the label is the answer to a prompt, and all are scored. Knows no head."""
