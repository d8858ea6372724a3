"""Models and documents of the demo, which are Winnow's own."""
