"""Fuzzing: whatever bytes come, however they are split, they end in "accepted" or in a documented status or code."""
