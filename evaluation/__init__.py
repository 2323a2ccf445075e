"""Scores: seeded generation, feature networks, distances between image sets, and the protocol each score carries.

Nothing heavy is imported here; torch-fidelity is imported by the functions that need it.
"""
