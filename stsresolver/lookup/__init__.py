"""Lookups, made in a process of their own: both sides of the socket between them.

Lookups compute, and they read what strangers wrote. So a `child` makes them with the library's
`Resolver`, in a `sandbox`, and the daemon keeps a `pool` of such processes, each with a
`supervisor`. `messages` is the protocol between the two. The daemon's side loads neither
dnspython nor requests. This room imports `mta_sts` and `net`.
"""
