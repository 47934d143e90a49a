"""One target, steered by libFuzzer: `python -m fuzz.one TARGET [OPTION|DIRECTORY ...]`."""

import sys

import atheris

# Its hook for regular expressions fails on patterns of bytes.
atheris.enabled_hooks.add("str")
# Libraries that a target is as much about as about our code; each takes a second to instrument.
LIBRARIES = {
    "configuration": "yaml",
    "dns_message": "dns",
    "next_hop": "idna",
    "http_response": "http",
}

name, sys.argv[1:] = sys.argv[1], sys.argv[2:]
packages = [package for package in ("stsresolver", LIBRARIES.get(name)) if package]
with atheris.instrument_imports(include=packages):
    from .targets import TARGETS

atheris.Setup(sys.argv, TARGETS[name])
atheris.Fuzz()
