"""Certificates for the tests: an authority made for the run signs right ones and wrong ones.

trustme refuses to make most of the wrong ones (names such as `mta-*.example.com`, no name but a
common name), so these are built with cryptography, which trustme brings.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import ssl
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_numbers = itertools.count(1)


class Authority:
    """A certificate authority whose files live in `directory`; `bundle` is what a client trusts.

    `issuer` makes it an intermediate one. With `is_ca=False` it is an ordinary certificate that
    signs others without being allowed to. `days` are the beginning and the end of its validity,
    counted from now. With `identifiers=False` neither it nor what it signs carries the key
    identifiers that VERIFY_X509_STRICT asks for.
    """

    def __init__(
        self,
        directory: Path,
        *,
        issuer: Authority | None = None,
        is_ca: bool = True,
        days: tuple[float, float] = (-1, 1),
        identifiers: bool = True,
    ):
        self._directory = directory
        self._issuer = issuer
        self._identifiers = identifiers
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(f"stsresolver test authority {next(_numbers)}")
        self._certificate = (issuer or self)._sign(self._key, self._name, is_ca=is_ca, days=days)
        self.bundle = directory / f"authority-{next(_numbers)}.pem"
        self.bundle.write_bytes(_pem(self._certificate))

    def server(self, *names: str | x509.GeneralName, **details) -> ssl.SSLContext:
        """Return a server's TLS context with a new certificate, as of `server_file`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server_file(*names, **details))
        return context

    def server_file(
        self,
        *names: str | x509.GeneralName,
        common_name: str | None = None,
        days: tuple[float, float] = (-1, 1),
        usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
        self_signed: bool = False,
        whole_chain: bool = True,
        ballast: int = 0,
    ) -> Path:
        """Write a new certificate for `names` (dNSName if text) and its key to a file.

        Its chain follows, and `ballast` bytes of certificates that belong to nothing.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(common_name or f"test server {next(_numbers)}")
        certificate = self._sign(
            key, subject, names=names, days=days, usage=usage, self_signed=self_signed
        )
        chain = [certificate]
        link = self
        while whole_chain and not self_signed and link._issuer is not None:
            chain.append(link._certificate)
            link = link._issuer
        size = len(self._certificate.public_bytes(serialization.Encoding.DER))
        chain += [self._certificate] * (ballast // size)
        file = self._directory / f"server-{next(_numbers)}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        file.write_bytes(private + b"".join(map(_pem, chain)))
        return file

    def _sign(
        self,
        key: ec.EllipticCurvePrivateKey,
        subject: x509.Name,
        *,
        names: tuple[str | x509.GeneralName, ...] = (),
        days: tuple[float, float],
        is_ca: bool = False,
        usage: x509.ObjectIdentifier | None = None,
        self_signed: bool = False,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        signing_key = key if self_signed else self._key
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if self_signed else self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=days[0]))
            .not_valid_after(now + datetime.timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if names:
            general = [x509.DNSName(name) if isinstance(name, str) else name for name in names]
            builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if self._identifiers:
            builder = (
                builder.add_extension(_key_usage(is_ca), critical=True)
                .add_extension(
                    x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
                )
                .add_extension(
                    x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()),
                    critical=False,
                )
            )
        return builder.sign(signing_key, hashes.SHA256())


def only_tls_1_1(context: ssl.SSLContext) -> ssl.SSLContext:
    """Make `context` offer TLS 1.0 and 1.1 and nothing newer, and return it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # OpenSSL 3 wants level 0 below TLS 1.2
    return context


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


@contextlib.contextmanager
def trusted(directory: Path) -> Iterator[Authority]:
    """Give an authority that this process, and those it starts, trust alone."""
    with pytest.MonkeyPatch.context() as patch:
        authority = Authority(directory)
        patch.setenv("SSL_CERT_FILE", str(authority.bundle))
        patch.setenv("SSL_CERT_DIR", str(directory / "no-directory"))
        yield authority
