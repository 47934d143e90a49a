"""A UNIX process: arguments, output, log, signals, ids, pidfile, service manager.

Nothing here knows of mail. Exit statuses follow sysexits.h, the service manager sd_notify(3) and
sd_listen_fds(3). This room imports `config`, for the settings of the log, and `net`.
"""
