"""A look at one domain for a person: each step of a lookup, the MX hosts, and what follows.

What is shown was seen by the `Resolver` itself, which tells an observer of its steps. `findings`
has the result, `inspector` makes it, `judgement` judges it, and `screen` and `as_json` write it.
`smtp` tries STARTTLS with the MX hosts. `asking` puts the question to a daemon instead, and
`cache_command` looks after a daemon's cache. This room may import all rooms but `lookup`.
"""
