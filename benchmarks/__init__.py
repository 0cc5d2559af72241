"""Measurements of wsworker beside other servers; see README.md."""
