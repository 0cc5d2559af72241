"""A worker: one process, one event loop, the user's module."""
