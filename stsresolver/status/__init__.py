"""A page for a person who wants to see whether all is well. It changes nothing.

`pages` has what can be asked for, and who may ask. `overview` reads the parts of the running
daemon, `domains` says what holds for one domain, `history` remembers the last hour. `html` and
`as_json` write what these give. This room imports `monitoring`, which has the server, `inspection`
for how things are shown to people, and the rooms above.
"""
