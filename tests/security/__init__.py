"""Who gets in, and what they may do: over real TLS, real Unix sockets and real connections."""
