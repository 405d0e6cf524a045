"""trainer: makes the weights that fieldstation runs. Imports fieldstation, never the reverse."""
