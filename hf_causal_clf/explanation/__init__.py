"""Why does a classifier say so? Knows texts and their probabilities, no model."""
