"""What is asked: labels, their answer texts, prompts, token ids of plain text. Knows no model."""
