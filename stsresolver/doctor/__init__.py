"""`mta-sts-daemon --doctor`: examines the host and Postfix's configuration, and suggests remedies.

One topic a module; each check returns findings. What Postfix expects is taken from TLS_README,
postconf(5) and socketmap_table(5). Nothing on the host is changed. This room imports `config`
and `net`, and of other rooms what it examines.
"""
