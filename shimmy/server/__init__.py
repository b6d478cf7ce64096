"""One process that listens: connections, who may come in, routes, long answers, and how it starts and ends."""
