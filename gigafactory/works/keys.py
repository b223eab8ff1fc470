"""API keys: who asks. A key is 256 random bits; only its SHA-256 is kept.

A password needs salt and a slow hash because people choose it; 256 random bits are beyond
guessing, so a plain hash suffices (NIST SP 800-63B, section 5.1.2.2, on look-up secrets).
"""

import fcntl
import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path

PREFIX = "gf-"
OWNER_ONLY = 0o600


class Keys:
    """The keys of one home: `keys.json` maps hashes to tenants, `key` is this user's own."""

    def __init__(self, home: Path):
        self.home = Path(home)
        self._file = self.home / "keys.json"
        self._read_at: tuple[int, int] | None = None
        self._tenants: dict[str, str] = {}

    def create(self, tenant: str) -> str:
        """A new key of `tenant`; this is the only time that it can be read."""
        key = PREFIX + secrets.token_urlsafe(32)
        self.home.mkdir(parents=True, exist_ok=True)
        with open(self.home / "keys.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # Two processes may create at once; both must last.
            write(self._file, json.dumps(self._known() | {digest(key): tenant}, indent=1))
        return key

    def tenant_of(self, key: str) -> str | None:
        """Whose key it is; takes as long for a wrong one as for a right one."""
        asked, found = digest(key), None
        for known, tenant in self._known().items():
            if hmac.compare_digest(known, asked):
                found = tenant
        return found

    def local(self, tenant: str) -> str:
        """The key that the command line of this user asks with; made on first use."""
        own = self.home / "key"
        if own.exists() and self.tenant_of(key := own.read_text().strip()) == tenant:
            return key
        key = self.create(tenant)
        write(own, key + "\n")
        return key

    def _known(self) -> dict[str, str]:
        """Tenants by hash; read again where another process wrote a key since."""
        try:
            stat = self._file.stat()
        except FileNotFoundError:
            return {}
        if self._read_at != (stat.st_mtime_ns, stat.st_ino):
            self._tenants = json.loads(self._file.read_text())
            self._read_at = (stat.st_mtime_ns, stat.st_ino)
        return self._tenants


def digest(key: str) -> str:
    """SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()


def write(file: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    half_done = file.with_name(file.name + ".tmp")
    half_done.unlink(missing_ok=True)  # One left by a crash might be open to others.
    with open(os.open(half_done, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY), "w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    os.replace(half_done, file)
