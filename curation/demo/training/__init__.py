"""Texts, training loop and commands that the trainings of the demo's models share."""
