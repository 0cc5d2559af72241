"""RFC 6455: bytes in, events out. The only folder that knows a mask from an opcode."""
