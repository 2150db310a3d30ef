"""How a recipe starts: arguments, YAML files, processes, logs. Knows no model."""
