"""The mesh: the other workers of this machine, each linked with each by a unix socket."""
