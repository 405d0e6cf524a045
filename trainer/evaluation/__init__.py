"""What a model is worth: measured on recordings that it was not trained on, beside a peer."""
