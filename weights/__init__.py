"""Weights in and out: other projects' names and shapes for the same networks, and folders that others can load."""
