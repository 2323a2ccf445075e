"""The command line: what stands between `main.py` and the packages. Nothing heavy is imported here."""
