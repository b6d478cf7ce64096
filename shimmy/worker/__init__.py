"""The process that owns one model and everything untrusted about it. It sees no sockets and no wire formats."""
