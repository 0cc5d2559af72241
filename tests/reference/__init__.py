"""The references of docs/: written from the models, the commands and the docstrings, so that they cannot be wrong."""
