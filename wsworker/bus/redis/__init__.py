"""Redis and Valkey: other machines by their pub/sub."""
