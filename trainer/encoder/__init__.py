"""The sound encoder: networks, losses, augmentation, profiles."""
