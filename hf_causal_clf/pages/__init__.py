"""One HTML file for people, of a run or of what else is found: no model, nothing from elsewhere."""
