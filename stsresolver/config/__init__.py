"""The configuration file mta-sts-daemon.yml(5): what it may hold, and what it then means.

`settings` has the values as plain data with their defaults, `keys` the rule for each key, and
`values` the longer rules. Only this room reads YAML. It imports `net`, for the URL of a proxy.
"""
