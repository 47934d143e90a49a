"""The network below MTA-STS: DNS messages, TLS, proxies, and the time that all of it may take.

Nothing here knows what a policy is. Every read, write and handshake ends by a `deadline`. DNS
messages follow RFC 1035 and RFC 6891, matching answers to questions RFC 5452, tunnels RFC 9110
§9.3.6. This room imports no other.
"""
