"""The members of a ZIP archive that are stored as they are, so that they can be looked at in place.

Python's zipfile reads the archive's directory. It does not say where a member's bytes begin: after a local header of 30
bytes, of which the last four are the lengths of the name and of a further field, and these two.

Source: PKWARE's APPNOTE.TXT 6.3, sections 4.3.7 (local header) and 4.3.12 (directory).
"""

import zipfile
import zlib
from typing import NamedTuple

from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.errors import CheckpointError

_LOCAL_HEADER = 30
_FOLDER = 0x10  # of the attributes; readers that believe it, torch's too, give no bytes


class Member(NamedTuple):
    begin: int  # of its bytes in the file
    size: int
    crc: int | None  # CRC-32 of them; None: the archive is without checksums


class _Limited:
    """A file for zipfile, which makes up to 15 bytes of objects for one of the directory, read at once."""

    def __init__(self, file: MappedFile):
        self.file, self.position = file, 0

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset + (0, self.position, self.file.size)[whence]
        return self.position

    def read(self, size: int = -1) -> bytes:
        left = self.file.size - self.position
        size = left if size < 0 else min(size, left)
        if size > 2_000_000 + self.file.size // 10:
            raise zipfile.BadZipFile(f"{size:,} bytes are too many for a file of {self.file.size:,}")
        self.position += size
        return self.file.take(self.position - size, size, "ZIP directory")


def read_directory(file: MappedFile) -> dict[str, Member]:
    """The archive's members by name, in the directory's order. Raises CheckpointError."""
    try:
        with zipfile.ZipFile(_Limited(file)) as archive:
            entries = archive.infolist()
    except CheckpointError:
        raise
    except Exception as error:  # of a dozen kinds
        raise CheckpointError(f"{file.path}: ZIP directory: it is cut off, or damaged ({error})") from None
    # PyTorch writes zeros if torch.utils.serialization.config.save.compute_crc32 is False
    has_checksums = any(entry.CRC for entry in entries)
    members = {}
    for entry in entries:
        name, begin = repr(entry.filename[:100]), entry.header_offset + _LOCAL_HEADER
        if entry.flag_bits & 1 or entry.compress_type or entry.external_attr & _FOLDER:
            raise CheckpointError(f"{file.path}: {name}: compressed, encrypted or a folder, and torch.save stores")
        if entry.filename in members:
            raise CheckpointError(f"{file.path}: ZIP directory: {name} is there twice")
        begin += int(file.array(begin - 4, "<u2", 2, f"header of {name}").sum(dtype=int))
        file.array(begin, "u1", entry.file_size, name)  # is it in the file?
        members[entry.filename] = Member(begin, entry.file_size, entry.CRC if has_checksums else None)
    return members


def checked_bytes(file: MappedFile, name: str, member: Member) -> memoryview:
    """A member's bytes, in place. Raises CheckpointError if their checksum is not what the directory says."""
    data = file.array(member.begin, "u1", member.size, repr(name)).data
    if member.crc is not None and zlib.crc32(data) != member.crc:
        raise CheckpointError(f"{file.path}: {name!r}: damaged: its CRC-32 is another")
    return data
