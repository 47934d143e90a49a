"""What an administrator does with the cache: list, show, forget, look again.

The daemon does it, asked over a UNIX socket of its own that root, or the daemon's user, alone may
open (`control` in the configuration). While none runs, `mta-sts-query cache` does the same with the
store by itself. `messages` has what goes over the socket, `commands` does it in the daemon, and
`direct` without one. This room imports `mta_sts`, `config`, `cache`, `stores` and `policies`.
"""
