"""Durable files on any file system: each is whole or absent, and is checked as it is read."""
