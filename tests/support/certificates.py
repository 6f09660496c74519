"""Authorities for tests, and what they sign, as files."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)
_PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class Issued:
    """A certificate and its key."""

    certificate: Path
    key: Path

    @property
    def serial(self) -> int:
        """The certificate's number."""
        return x509.load_pem_x509_certificate(self.certificate.read_bytes()).serial_number

    def put(self, certificate: Path, key: Path) -> None:
        """Copies both to where a server reads them, as something that renews them does."""
        for source, place in ((self.certificate, certificate), (self.key, key)):
            fresh = place.with_suffix(".fresh")
            fresh.write_bytes(source.read_bytes())
            fresh.rename(place)


class Authority:
    """Signs certificates that are good for 127.0.0.1."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._count = 0
        builder = _unsigned(self._name, self._name, self._key.public_key(), _DAY)
        own = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.certificate = folder / f"{name}.crt"
        self.certificate.write_bytes(own.sign(self._key, hashes.SHA256()).public_bytes(_PEM))

    def issue(self, subject: str, *, good_for: datetime.timedelta = _DAY, passphrase: str = "") -> Issued:
        """A certificate for that name and 127.0.0.1; with a negative time, one that has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName(subject), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = _unsigned(_name(subject), self._name, key.public_key(), good_for)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        self._count += 1
        stem = self._folder / f"{self.certificate.stem}-{subject}-{self._count}"
        issued = Issued(stem.with_suffix(".crt"), stem.with_suffix(".key"))
        issued.certificate.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(_PEM))
        locked: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            locked = serialization.BestAvailableEncryption(passphrase.encode())
        issued.key.write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, locked))
        return issued

    def client(self, own: Issued | None = None) -> ssl.SSLContext:
        """A client's context that trusts this authority, with a certificate or none."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        if own is not None:
            context.load_cert_chain(own.certificate, own.key)
        return context


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _unsigned(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, good_for: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 10 * _DAY)
        .not_valid_after(now + good_for)
    )
