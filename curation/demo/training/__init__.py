"""What the trainings of the demo's models have in common: their texts, the loop, the commands."""
