"""The directory of a ZIP archive whose members are stored as they are, so that they can be looked at in place.

Python's zipfile makes an object of some 700 bytes for 46 bytes of the file and raises a dozen kinds of exceptions;
and an archive may be two things to two readers, which is how one slips past a check. So only the plainest archives are
read, and torch.save and zipfile (without compression) write such: one directory, at the end, no comment after it,
nothing compressed or encrypted, each name once, no two members in the same place, and what stands before a member says
what the directory says.

Source: PKWARE's APPNOTE.TXT 6.3, sections 4.3.7 (local header), 4.3.12 to 4.3.16 (directory, its end), 4.5.3 (zip64).
"""

import struct
import zlib
from typing import NamedTuple

from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.errors import CheckpointError

MAX_NAME_BYTES = 200
MAX_ENTRY_BYTES = 1000
_LOCAL = struct.Struct("<4s5H3I2H")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_SIZES_FOLLOW, _UTF8 = 0x0008, 0x0800  # flags: checksum and sizes stand after the member, not before; the name's code
_FOLDER = 0x10  # of the attributes
_MAX32 = 2**32 - 1  # says that the number stands in the zip64 field


class Member(NamedTuple):
    begin: int  # of its bytes in the file
    size: int
    crc: int | None  # CRC-32 of them; None: the archive is without checksums


def read_directory(file: MappedFile) -> dict[str, Member]:
    """The archive's members by name, in the directory's order. Raises CheckpointError."""
    count, begin, end = _find_directory(file)
    if count > 10_000 + file.size // 256:  # with what belongs to it, a tensor of torch.save takes more than 256 bytes
        raise CheckpointError(f"{file.path}: ZIP directory: {count:,} members are too many for {file.size:,} bytes")
    members, spans, lower = {}, [], set()
    position = begin
    for _ in range(count):
        name, offset, size, crc, flags, position = _read_entry(file, position, end)
        if name.lower() in lower:  # some readers, torch's too, take capital letters for small ones
            raise CheckpointError(f"{file.path}: ZIP directory: {name!r} is there twice")
        lower.add(name.lower())
        start = _check_local_header(file, name, offset, size, crc, flags)
        members[name] = Member(start, size, crc)
        spans.append((offset, start + size, name))
    if position != end:
        raise CheckpointError(f"{file.path}: ZIP directory: {end - position:,} bytes after its last member")
    _check_apart(file, spans, begin)
    if any(member.crc for member in members.values()):
        return members
    # PyTorch writes zeros if torch.utils.serialization.config.save.compute_crc32 is False
    return {name: member._replace(crc=None) for name, member in members.items()}


def checked_bytes(file: MappedFile, name: str, member: Member) -> memoryview:
    """A member's bytes, in place. Raises CheckpointError if their checksum is not what the directory says."""
    data = memoryview(file.array(member.begin, "u1", member.size, repr(name)))
    if member.crc is not None and zlib.crc32(data) != member.crc:
        raise CheckpointError(f"{file.path}: {name!r}: damaged: its CRC-32 is not what the ZIP directory says")
    return data


def _find_directory(file: MappedFile) -> tuple[int, int, int]:
    """-> the number of members; where the directory begins and ends."""
    place = f"{file.path}: ZIP directory"
    last = file.size - _END.size
    end = _unpack(file, _END, last, b"PK\5\6") if last >= 0 else None
    if end is None:
        raise CheckpointError(f"{place}: its end is not at the file's end, so the file is cut off, or has a comment")
    disk, first_disk, here, count, size, begin, comment = end
    locator = _unpack(file, _LOCATOR64, last - _LOCATOR64.size, b"PK\6\7") if last >= _LOCATOR64.size else None
    if locator is not None:
        last -= _LOCATOR64.size + _END64.size
        end64 = _unpack(file, _END64, last, b"PK\6\6") if last >= 0 else None
        if end64 is None or locator != (0, last, 1):
            raise CheckpointError(f"{place}: the zip64 record is not where its end says")
        length, _, _, disk64, first_disk64, here64, count64, size64, begin64 = end64
        short = (disk64, first_disk64, min(here64, 0xFFFF), min(count64, 0xFFFF), min(size64, _MAX32))
        if (
            length != _END64.size - 12
            or (disk, first_disk, here, count, size) != short
            or begin != min(begin64, _MAX32)
        ):
            raise CheckpointError(f"{place}: the zip64 record says other things than the one after it")
        here, count, size, begin = here64, count64, size64, begin64
    if comment or disk or first_disk or here != count:
        raise CheckpointError(f"{place}: a comment, or a part of an archive")
    if begin + size != last:
        raise CheckpointError(
            f"{place}: {size:,} bytes at {begin:,}, and it must end at {last:,}: the file is cut off, or damaged"
        )
    return count, begin, last


def _unpack(file, record: struct.Struct, position: int, signature: bytes, what: str = "ZIP directory"):
    """The record's numbers; None if there is another thing."""
    found = record.unpack(file.take(position, record.size, what))
    return found[1:] if found[0] == signature else None


def _read_entry(file: MappedFile, position: int, end: int):
    """One entry of the directory -> name, place of the local header, size, CRC-32, flags, the next entry's position."""
    entry = _unpack(file, _ENTRY, position, b"PK\1\2") if position + _ENTRY.size <= end else None
    if entry is None:
        raise CheckpointError(f"{file.path}: ZIP directory: no entry at byte {position:,}")
    _, _, flags, method, _, _, crc, packed, size, *lengths, disk, _, attributes, offset = entry
    position += _ENTRY.size
    if sum(lengths) > min(MAX_ENTRY_BYTES, end - position) or lengths[0] > MAX_NAME_BYTES:
        raise CheckpointError(f"{file.path}: ZIP directory: a name of {lengths[0]:,} bytes, {sum(lengths):,} in all")
    try:
        name = file.take(position, lengths[0], "name").decode("utf-8" if flags & _UTF8 else "ascii")
    except UnicodeDecodeError:
        raise CheckpointError(f"{file.path}: ZIP directory: a name in no known code at byte {position:,}") from None
    place = f"{file.path}: {name!r}"
    if flags & ~(_SIZES_FOLLOW | _UTF8):
        raise CheckpointError(f"{place}: ZIP flags {flags:#06x}: it is encrypted, or in a form that is not read")
    if method != 0:
        raise CheckpointError(f"{place}: it is compressed (method {method}), and torch.save stores")
    if attributes & _FOLDER:  # readers that believe it give no bytes
        raise CheckpointError(f"{place}: it says that it is a folder")
    if disk:
        raise CheckpointError(f"{place}: it is in another part of the archive")
    extra = file.take(position + lengths[0], lengths[1], "extra field")
    size, packed, offset = _with_zip64((size, packed, offset), extra, place)
    if packed != size:
        raise CheckpointError(f"{place}: {size:,} bytes in {packed:,}, and it is not compressed")
    return name, offset, size, crc, flags, position + sum(lengths)


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


def _check_local_header(file: MappedFile, name: str, offset: int, size: int, crc: int, flags: int) -> int:
    """Where the member's bytes begin. Raises CheckpointError if what stands before them is not what the entry says."""
    place, encoded = f"{file.path}: {name!r}", name.encode()
    header = _unpack(file, _LOCAL, offset, b"PK\3\4", f"{name!r}: ZIP header")
    start = offset + _LOCAL.size
    if header is None or header[1:3] != (flags, 0) or header[-2] != len(encoded):
        raise CheckpointError(f"{place}: the ZIP header before it is another one than the directory says")
    if file.take(start, len(encoded), f"{name!r}: ZIP header") != encoded:
        raise CheckpointError(f"{place}: the ZIP header before it has another name than the directory")
    *_, crc_there, packed_there, size_there, _, extra_length = header
    numbers, expected = (crc_there, packed_there, size_there), (crc, min(size, _MAX32), min(size, _MAX32))
    later = flags & _SIZES_FOLLOW and all(n in (0, wanted) for n, wanted in zip(numbers, expected, strict=True))
    if numbers != expected and not later:
        raise CheckpointError(f"{place}: the ZIP header before it has another size or CRC-32 than the directory")
    return start + len(encoded) + extra_length


def _check_apart(file: MappedFile, spans: list, end: int) -> None:
    """Raise CheckpointError if members overlap, or reach into the directory, which begins at ``end``."""
    spans.sort()
    for (_, stop, name), following in zip(spans, [*(begin for begin, _, _ in spans[1:]), end], strict=False):
        if stop > following:
            raise CheckpointError(f"{file.path}: {name!r}: it overlaps what follows it in the ZIP file")
