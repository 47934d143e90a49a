"""MTA-STS (RFC 8461): the record, the policy, and one lookup from the first to the second.

`record`, `policy` and `next_hop` are grammar, without any I/O. `discovery` asks DNS (§3.1), `fetch`
asks the policy host (§3.3), and `resolver` puts the two together. Nothing is remembered here: how
long a policy stays in force is decided in `policies`. This room imports `net`.
"""
