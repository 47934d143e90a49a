"""End to end: a real Postfix asks the daemon, and delivers over verified TLS or defers."""
