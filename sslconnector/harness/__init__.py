"""The echo test: a server, many connections, every byte checked. Uses the library's public names only."""
