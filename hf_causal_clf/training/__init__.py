"""What the trainers of both approaches share. Knows neither approach."""
