"""wsworker: a WebSocket worker daemon for Linux."""
