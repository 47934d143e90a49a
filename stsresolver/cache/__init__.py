"""What is remembered of a domain with a policy, and the memory that answers first.

An `entry` holds a policy with its times. A `store` is a place for entries: `memory` is one, and the
room `stores` has those that outlive the process. `layered` puts the memory in front of them. Expiry
follows RFC 8461 §3.2 and §10.2. This room imports `mta_sts`.
"""
