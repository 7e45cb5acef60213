"""The part of ALTO that decides. No clock, no sockets, no threads, no luck of its own."""
