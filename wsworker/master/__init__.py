"""The master: it decides and forks, sees no client byte and never imports user code."""
