"""A run's folder: its files and its results, read and written whole. Loads no model."""
