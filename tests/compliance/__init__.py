"""What the Autobahn test suite says of a running daemon; `python -m tests.compliance` runs it."""
