"""The servers that are compared: each module has the commands that start one, as a process tree of its own."""
