"""Which approach is better on one's data? Runs and baselines on the same split. Imported by recipes only."""
