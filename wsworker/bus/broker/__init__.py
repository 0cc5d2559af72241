"""What the adapters to all brokers share: what stands in a message, what waits for the broker, what comes of it."""
