"""Any decoder-only model: loading, adapters, quantisation, attention, batches. Knows no prompt and no label."""
