"""The policies in force: what applies to a domain now, and when it is looked up again.

The only room that decides (RFC 8461 §3.1, §3.3, §5.1, §8, §10.2): answer from what is known, check
the record's id, fetch, keep the policy in force, give up. `proactive` renews policies that no mail
asks for, and `event_log` tells the administrator. This room imports `mta_sts`, `config`, `cache`
and what of `lookup` it is handed.
"""
