"""Live connections move from worker to worker: the real daemon, and clients that must not notice."""
