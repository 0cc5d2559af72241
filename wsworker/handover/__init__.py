"""Hand-over: live connections move from one worker to another, and no client notices."""
