"""A run's folder: what it is (`Run`), its files, its metrics and results, read and written whole. Loads no model."""
