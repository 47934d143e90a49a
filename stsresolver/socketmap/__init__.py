"""Postfix's side: the socketmap protocol (socketmap_table(5)) and the answers to its requests.

`server` owns the connections and hands to threads what would wait. `answer` writes what
smtp_tls_policy_maps takes (postconf(5), TLS_README). This room imports the rooms that answer:
`policies` above all, and `mta_sts`, `config` and `net`.
"""
