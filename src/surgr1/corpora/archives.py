"""Downloaded archives and the paths in label files: nothing written or read outside the dataset's folder.

Archives (zip, tar, compressed tar) are unpacked beside the target and renamed when whole.
"""

import bz2
import errno
import gzip
import json
import lzma
import os
import shutil
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, NoReturn, Self

from surgr1.corpora.files import LabelError
from surgr1.ontology.errors import SurgR1Error

MAX_RATIO = 200
"""Unpacked over packed bytes. Pictures and videos stay near 1, text below 50, masks of few colours below
100.
"""
_HARMLESS = 256 << 20
"""Bytes. The ratio is not looked at below this."""
_RESERVE = 256 << 20
"""Bytes of the disk that are left free."""
_BLOCK = 1 << 20


class ArchiveError(SurgR1Error):
    """An archive that is damaged, would write outside its folder, or would fill the disk."""


@dataclass(frozen=True)
class Unpacked:
    """`files` and their `bytes` in the target; `written` of the files by this run."""

    files: int
    bytes: int
    written: int


@dataclass(frozen=True)
class _Member:
    """One entry. `link` is what a link points at, in the archive's words."""

    name: str
    kind: Literal["file", "folder", "symlink", "hardlink", "other"]
    size: int = 0
    link: str = ""


def inside(root: Path, name: str, where: object) -> Path:
    """`root / name` for a path that stands in a label file. `where` ("file:line") begins the message.

    Raises LabelError on an empty or absolute path, "..", a backslash or drive letter, and where a symbolic
    link leads out of `root`. The file need not exist. Folders are resolved once per process, so that millions
    of rows can be checked.
    """
    reason = _unsafe(name)
    if reason:
        raise LabelError(f"{where}: path {name!r} {reason}; expected one relative to {root}")
    path = root / name
    end = _outside(str(root), name.rpartition("/")[0])
    if not end and path.is_symlink():
        end = _end_outside(str(root), str(path))
    if end:
        raise LabelError(f"{where}: path {name!r} leads out of {root}, to {end}")
    return path


@lru_cache(maxsize=4096)
def _outside(root: str, folder: str) -> str:
    return _end_outside(root, f"{root}/{folder}")


def _end_outside(root: str, path: str) -> str:
    """Where a path really ends if that is not below `root`, else ""."""
    real, end = os.path.realpath(root), os.path.realpath(path)
    return "" if end == real or end.startswith(real.rstrip("/") + "/") else end


def _unsafe(name: str) -> str:
    """What is wrong with a relative path, "" if nothing."""
    if "\0" in name:
        return "holds a NUL character"
    if name.startswith("/"):
        return "is absolute"
    if ".." in name and ".." in name.split("/"):
        return "holds '..'"
    if not name.strip("./"):
        return "is empty"
    if "\\" in name or name[1:2] == ":":
        return "is in Windows' form (backslash or drive letter)"
    return ""


def unpack(archive: Path, target: Path) -> Unpacked:
    """Unpack a zip or tar (also .gz, .bz2, .xz) into the new folder `target`.

    Everything goes into `.<target>.part` beside it, which is renamed at the end; after an interruption, files
    that are there are kept (if the archive is still the same). On a refused member nothing is left. Raises
    ArchiveError naming archive and member: absolute paths, "..", links that leave the target, devices, names
    that stand twice, encrypted members, more bytes than the disk has or than an honest archive holds, damage.
    """
    if target.exists():
        raise ArchiveError(f"{archive}: {target} is already there; move it away or choose another folder")
    try:
        state = archive.stat()
    except OSError as error:
        raise ArchiveError(f"{archive}: {error.strerror or error}") from error
    part, note = target.with_name(f".{target.name}.part"), target.with_name(f".{target.name}.part.json")
    mark = json.dumps([archive.name, state.st_size, state.st_mtime_ns])
    try:
        if not note.is_file() or note.read_text(encoding="utf-8") != mark:
            shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True, exist_ok=True)
        note.write_text(mark, encoding="utf-8")
        try:
            done = _Unpacking(archive, part, state.st_size).run()
        except _Refused as refused:
            shutil.rmtree(part)
            note.unlink()
            raise ArchiveError(str(refused)) from None
        part.rename(target)
        note.unlink()
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ArchiveError(f"{archive}: not a whole archive ({error}); download it again") from error
    except NotImplementedError as error:
        # What zipfile raises on a method it does not know.
        raise ArchiveError(f"{archive}: cannot be unpacked here: {error}") from error
    except OSError as error:
        if error.errno is None:
            # Of gzip and bz2: wrong checksum, damaged stream.
            raise ArchiveError(f"{archive}: not a whole archive ({error}); download it again") from error
        raise ArchiveError(
            f"{archive}: unpacking to {part} failed: {error}; mend it and run again"
        ) from error
    return done


class _Refused(Exception):
    """A member that no honest archive has."""


class _Unpacking:
    """One pass over the members, each checked before it is written."""

    def __init__(self, archive: Path, part: Path, packed: int) -> None:
        self.archive, self.part, self.packed = archive, part, packed
        self.root = part.resolve()
        self.names: set[str] = set()
        self.files = self.bytes = self.written = 0
        self.free = shutil.disk_usage(part).free - _RESERVE

    def run(self) -> Unpacked:
        for member, stream in _members(self.archive):
            if member.kind == "folder" and member.name in (".", "./"):
                # Many tars begin with the folder itself.
                continue
            self._check(member)
            path = self.part / member.name
            try:
                self._write(member, path, stream)
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                self._refuse(member, "is a file and a folder at once")
        self._check_links()
        return Unpacked(self.files, self.bytes, self.written)

    def _refuse(self, member: _Member, reason: str) -> NoReturn:
        raise _Refused(f"{self.archive}: member {member.name!r} {reason}; nothing was unpacked")

    def _check(self, member: _Member) -> None:
        unsafe = _unsafe(member.name)
        if unsafe:
            self._refuse(member, unsafe)
        if member.kind == "other":
            self._refuse(member, "is a device, a pipe or encrypted")
        # As file systems may fold names: composed accents, "a/./b".
        name = unicodedata.normalize("NFC", str(PurePosixPath(member.name)))
        if name in self.names and member.kind != "folder":
            self._refuse(member, "stands twice")
        if member.kind != "folder":
            self.names.add(name)
        if member.kind in ("symlink", "hardlink"):
            base = PurePosixPath(member.name).parent if member.kind == "symlink" else PurePosixPath()
            end = os.path.normpath(base / member.link)
            if member.link.startswith("/") or "\0" in member.link or end.split("/")[0] == "..":
                self._refuse(member, f"is a link to {member.link!r}, out of the folder")
        parent = (self.part / member.name).parent
        if not parent.resolve().is_relative_to(self.root):
            self._refuse(member, "would be written through a link that leaves the folder")
        total = self.bytes + member.size
        if total > _HARMLESS and total > MAX_RATIO * self.packed:
            self._refuse(member, f"makes {total} bytes of {self.packed} packed ones (over {MAX_RATIO}-fold)")

    def _write(self, member: _Member, path: Path, stream: IO[bytes] | None) -> None:
        (path if member.kind == "folder" else path.parent).mkdir(parents=True, exist_ok=True)
        if member.kind == "folder":
            return
        self.files += 1
        self.bytes += member.size
        if member.kind == "symlink":
            path.unlink(missing_ok=True)
            path.symlink_to(member.link)
        elif member.kind == "hardlink":
            source = self.part / member.link
            if _unsafe(member.link) or source.is_symlink() or not source.is_file():
                self._refuse(member, f"is a link to {member.link!r}, which is no file before it")
            if not source.resolve().is_relative_to(self.root):
                self._refuse(member, f"is a link to {member.link!r}, out of the folder")
            path.unlink(missing_ok=True)
            path.hardlink_to(source)
        elif stream is None or path.is_symlink():
            self._refuse(member, "cannot be written as a file")
        elif not path.is_file() or path.stat().st_size != member.size:
            self._copy(member, path, stream)
        else:
            return
        self.written += 1

    def _copy(self, member: _Member, path: Path, stream: IO[bytes]) -> None:
        self.free -= member.size
        if self.free < 0:
            raise OSError(errno.ENOSPC, f"the disk has no room for member {member.name!r}")
        partial = path.with_name(f".{path.name}.part")
        left = member.size
        with partial.open("wb") as file:
            while block := stream.read(_BLOCK):
                left -= len(block)
                if left < 0:
                    self._refuse(member, f"holds more than the {member.size} bytes it declares")
                file.write(block)
        if left:
            raise EOFError(f"member {member.name!r} ends {left} bytes early")
        partial.replace(path)

    def _check_links(self) -> None:
        """Links may meet later members: look again at where each ends."""
        for folder, folders, files in os.walk(self.part):
            for path in (Path(folder) / name for name in (*folders, *files)):
                if path.is_symlink() and not path.resolve().is_relative_to(self.root):
                    name = path.relative_to(self.part).as_posix()
                    self._refuse(_Member(name, "symlink"), "is a link out of the folder")


def _members(archive: Path) -> Iterator[tuple[_Member, IO[bytes] | None]]:
    """Every entry and, for files, its content, which must be read before the next entry is asked for."""
    with archive.open("rb") as file:
        magic = file.read(6)
    if magic.startswith((b"PK\3\4", b"PK\5\6")):
        yield from _zip_members(archive)
    else:
        openers: dict[bytes, Callable[[Path], Any]] = {
            b"\x1f\x8b": gzip.open,
            b"BZh": bz2.open,
            b"\xfd7zXZ": lzma.open,
        }
        opener = next((o for m, o in openers.items() if magic.startswith(m)), None)
        with opener(archive) if opener else archive.open("rb") as unpacked:
            yield from _tar_members(unpacked)
            # The checksum of a compressed archive is at its end.
            while unpacked.read(_BLOCK):
                pass


def _zip_members(archive: Path) -> Iterator[tuple[_Member, IO[bytes] | None]]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            form, name = stat.S_IFMT(info.external_attr >> 16), _zip_name(info)
            if info.is_dir():
                yield _Member(name, "folder"), None
            elif info.flag_bits & 1 or form not in (0, stat.S_IFREG, stat.S_IFLNK):
                yield _Member(name, "other"), None
            elif form == stat.S_IFLNK:
                with file.open(info) as stream:
                    link = stream.read(4096).decode("utf-8", errors="replace")
                yield _Member(name, "symlink", link=link), None
            else:
                with file.open(info) as stream:
                    yield _Member(name, "file", info.file_size), stream


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Programs on Unix and macOS write UTF-8 without the flag that says so; zipfile then reads code page
    437.
    """
    if info.create_system == 3 and not info.flag_bits & 0x800:
        try:
            return info.filename.encode("cp437").decode("utf-8")
        except UnicodeError:
            pass
    return info.filename


class _Header(tarfile.TarInfo):
    """tarfile takes a damaged or missing header for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if bytes(buf) == bytes(tarfile.BLOCKSIZE):
                # The mark of the end.
                raise
            raise tarfile.ReadError(f"{error}, before the mark of the end") from error


def _tar_members(unpacked: IO[bytes]) -> Iterator[tuple[_Member, IO[bytes] | None]]:
    with tarfile.open(fileobj=unpacked, mode="r|", tarinfo=_Header) as file:
        for info in file:
            if info.isdir():
                yield _Member(info.name, "folder"), None
            elif info.issym():
                yield _Member(info.name, "symlink", link=info.linkname), None
            elif info.islnk():
                yield _Member(info.name, "hardlink", link=info.linkname), None
            elif info.isreg():
                yield _Member(info.name, "file", info.size), file.extractfile(info)
            else:
                yield _Member(info.name, "other"), None
