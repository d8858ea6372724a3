"""The command line: each flag is declared once, and read here alone."""
