"""NATS: other machines by its subjects."""
