"""Windows become probabilities, probabilities become events."""
