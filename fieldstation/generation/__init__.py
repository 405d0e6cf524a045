"""Pictures from calls. Torch only when asked for."""
