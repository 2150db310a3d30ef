"""How good are probabilities? Metrics, calibration, significance, figures. Knows arrays only."""
