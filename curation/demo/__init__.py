"""The demo's models and documents, which are Winnow's own."""
