"""Publishing at a broker, from programs that are no worker."""
