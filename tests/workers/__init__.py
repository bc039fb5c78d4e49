"""A server and two workers on this machine, runs that are started through the server, and processes that are killed."""
