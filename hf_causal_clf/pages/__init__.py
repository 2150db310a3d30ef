"""One HTML file of a run or a comparison, for people: no model, nothing from elsewhere."""
