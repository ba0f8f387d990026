"""Masks secrets in a file to which a child appends, in place: no byte of it changes its offset.

Masking follows the child: a heartbeat masks what was appended since the last one. So a secret can be read in the file
for as long as a heartbeat, by this user alone.
"""

import logging
import os
from pathlib import Path

from app.redaction import Redactor

CHUNK_BYTES = 2**20
log = logging.getLogger(__name__)


class MaskedFile:
    """Remembers how far a file was masked. It begins again if the file became shorter."""

    def __init__(self, path: Path, redactor: Redactor) -> None:
        self._path, self._redactor, self._masked = path, redactor, 0

    def mask(self) -> None:
        """Mask what was appended. What was read before is read again as far as a secret may reach over its end."""
        try:
            with self._path.open("r+b", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if size < self._masked:
                    self._masked = 0
                while self._masked < size:
                    self._mask_from(file.fileno(), max(0, self._masked - self._redactor.longest))
        except FileNotFoundError:
            return
        except OSError as error:  # no attempt should fail because of its log
            log.warning("%s could not be searched for secrets: %s", self._path, error)

    def _mask_from(self, file: int, start: int) -> None:
        found = os.pread(file, CHUNK_BYTES + self._redactor.longest, start)
        masked = self._redactor.mask(found)
        if masked != found:
            os.pwrite(file, masked, start)
        self._masked = max(start + len(found), self._masked + 1)
