"""Which labels are wrong, and what to label next: on frozen features, without training a model."""
