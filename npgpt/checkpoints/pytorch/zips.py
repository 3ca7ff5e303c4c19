"""The directory of a ZIP archive whose members are stored as they are, so that they can be looked at in place.

    each member     a local header: 30 bytes, of which the last four are the lengths of the name and of a further
                    field; these two; then the member's bytes
    the directory   for each member an entry of 46 bytes, with lengths of what follows it: name, extra field, comment
    zip64           the end once more, with numbers of 64 bits, and where it is; in files of more than 4 GB
    the end         22 bytes: how many entries, where the directory is

Python's zipfile makes an object of 700 bytes for an entry, doesn't say where a member's bytes are, and raises a dozen
kinds of exceptions. torch.save and zipfile (without compression) write what is read here: nothing compressed or
encrypted, no comment at the end, each name once.

Source: PKWARE's APPNOTE.TXT 6.3, sections 4.3.7 (local header), 4.3.12 to 4.3.16 (directory, its end), 4.5.3 (zip64).
"""

import struct
import zlib
from typing import NamedTuple

from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.errors import CheckpointError

_LOCAL = struct.Struct("<4s5H3I2H")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_FOLDER = 0x10  # of the attributes; readers that believe it, torch's too, give no bytes
_MAX32 = 2**32 - 1  # says that the number stands in the zip64 field


class Member(NamedTuple):
    begin: int  # of its bytes in the file
    size: int
    crc: int | None  # CRC-32 of them; None: the archive is without checksums


def read_directory(file: MappedFile) -> dict[str, Member]:
    """The archive's members by name, in the directory's order. Raises CheckpointError."""
    count, position = _find_directory(file)
    if count > 10_000 + file.size // 256:  # with what belongs to it, a tensor of torch.save takes more than 256 bytes
        raise CheckpointError(f"{file.path}: ZIP directory: {count:,} members are too many for {file.size:,} bytes")
    members, seen = {}, set()
    for _ in range(count):
        name, member, position = _read_entry(file, position)
        if name.lower() in seen:  # some readers, torch's too, take capital letters for small ones
            raise CheckpointError(f"{file.path}: ZIP directory: {name!r} is there twice")
        seen.add(name.lower())
        members[name] = member
    if any(member.crc for member in members.values()):
        return members
    # PyTorch writes zeros if torch.utils.serialization.config.save.compute_crc32 is False
    return {name: member._replace(crc=None) for name, member in members.items()}


def checked_bytes(file: MappedFile, name: str, member: Member) -> memoryview:
    """A member's bytes, in place. Raises CheckpointError if their checksum is not what the directory says."""
    data = file.array(member.begin, "u1", member.size, repr(name)).data
    if member.crc is not None and zlib.crc32(data) != member.crc:
        raise CheckpointError(f"{file.path}: {name!r}: damaged: its CRC-32 is not what the ZIP directory says")
    return data


def _find_directory(file: MappedFile) -> tuple[int, int]:
    """-> the number of members, and where the directory begins."""
    last = file.size - _END.size
    *_, count, size, begin, _ = _unpack(file, _END, last, b"PK\5\6", "end, which a file that is cut off doesn't have")
    locator = last - _LOCATOR64.size
    if locator >= 0 and file.take(locator, 4, "ZIP directory") == b"PK\6\7":
        last = _unpack(file, _LOCATOR64, locator, b"PK\6\7", "zip64 locator")[1]
        *_, count, size, begin = _unpack(file, _END64, last, b"PK\6\6", "zip64 end")
    if begin + size != last:
        raise CheckpointError(
            f"{file.path}: ZIP directory: {size:,} bytes at {begin:,}, and it must end at {last:,}: "
            f"the file is cut off, or damaged"
        )
    return count, begin


def _unpack(file: MappedFile, record: struct.Struct, position: int, signature: bytes, what: str) -> tuple:
    """The record's numbers. Raises CheckpointError if there is another thing, or nothing."""
    found = record.unpack(file.take(position, record.size, f"ZIP {what}"))
    if found[0] != signature:
        raise CheckpointError(f"{file.path}: ZIP directory: at byte {position:,} there is no {what}")
    return found[1:]


def _read_entry(file: MappedFile, position: int) -> tuple[str, Member, int]:
    """One entry of the directory -> name, member, the next entry's position."""
    entry = _unpack(file, _ENTRY, position, b"PK\1\2", "entry")
    _, _, flags, method, _, _, crc, packed, size, *lengths, _, _, attributes, offset = entry
    name_length, extra_length, _ = lengths
    position += _ENTRY.size
    name = file.take(position, name_length, "ZIP name").decode("utf-8", "backslashreplace")
    place = f"{file.path}: {name[:100]!r}"
    extra = file.take(position + name_length, extra_length, "ZIP extra field")
    size, packed, offset = _with_zip64((size, packed, offset), extra, place)
    if flags & 1 or method != 0 or packed != size or attributes & _FOLDER:
        raise CheckpointError(f"{place}: compressed (method {method}), encrypted or a folder, and torch.save stores")
    *_, local_name_length, local_extra_length = _unpack(file, _LOCAL, offset, b"PK\3\4", f"header of {name[:100]!r}")
    begin = offset + _LOCAL.size + local_name_length + local_extra_length
    file.array(begin, "u1", size, repr(name[:100]))  # is it in the file?
    return name, Member(begin, size, crc), position + sum(lengths)


def _with_zip64(numbers: tuple, extra: bytes, place: str) -> list[int]:
    """The numbers, each that is _MAX32 replaced by the next 64-bit one in the extra field."""
    wide = b""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            wide += extra[4 : 4 + length]
        extra = extra[4 + length :]
    found = []
    for number in numbers:
        if number == _MAX32:
            if len(wide) < 8:
                raise CheckpointError(f"{place}: a zip64 number is not there")
            number, wide = int.from_bytes(wide[:8], "little"), wide[8:]
        found.append(number)
    return found
