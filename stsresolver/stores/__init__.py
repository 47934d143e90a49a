"""Stores that outlive the process: an sqlite file, or a server that several hosts share.

`opening` makes the store that the configuration asks for. What is read back may have been written
by anybody, so it passes the same grammar as what comes from the network. This room imports
`mta_sts`, `config` and `cache`.
"""
