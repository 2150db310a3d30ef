"""What is cheaper than training a language model: how each baseline is fitted, saved and loaded again."""
