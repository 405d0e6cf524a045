"""The conditional diffusion model."""
