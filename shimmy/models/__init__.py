"""Which models there are on this machine, and what their headers say: files and headers, no workers."""
