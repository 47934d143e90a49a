"""DANE for SMTP (RFC 7672): do signed TLSA records say how a next hop is to be verified?

Where they do, a policy of MTA-STS must not override them (RFC 8461 §2). `resolver` finds out what
DNS says, `states` decides what follows, `tlsa` says which records can be used. This room imports
`mta_sts` and `net`.
"""
