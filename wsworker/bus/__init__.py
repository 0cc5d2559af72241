"""The bus: how what one worker publishes reaches the others."""
