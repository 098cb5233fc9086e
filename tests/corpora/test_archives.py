"""Unpacking of honest and hostile archives, and paths from label files."""

import errno
import gzip
import io
import os
import random
import shutil
import stat
import subprocess
import tarfile
import zipfile

import pytest

from surgr1.corpora import archives
from surgr1.corpora.archives import ArchiveError, inside, unpack
from surgr1.corpora.files import LabelError

FILES = {
    "set/labels/01.txt": b"0,1\n6,2\n",
    "set/frames/01/000.png": random.Random(0).randbytes(5000),
    "set/frames/01/\u00e9.png": random.Random(1).randbytes(300_000),
    "set/empty.txt": b"",
}
FORMS = ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz")


def entry(name, kind=tarfile.REGTYPE, link="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def make_tar(path, members):
    """`members`: (TarInfo or name, content)."""
    mode = {"tar": "w", "gz": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}[path.name.rsplit(".", 1)[1]]
    with tarfile.open(path, mode) as file:
        for info, data in members:
            header = entry(info, size=len(data)) if isinstance(info, str) else info
            file.addfile(header, io.BytesIO(data))
    return path


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for info, data in members:
            file.writestr(info, data)
    return path


def make(path, members):
    return make_zip(path, members) if path.suffix == ".zip" else make_tar(path, members)


def tree(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("form", FORMS)
def test_what_was_packed_comes_out(tmp_path, form):
    archive = make(tmp_path / f"a.{form}", FILES.items())
    found = unpack(archive, tmp_path / "out" / "here")
    assert tree(tmp_path / "out" / "here") == FILES
    assert (found.files, found.written) == (4, 4)
    assert found.bytes == sum(map(len, FILES.values()))
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["here"]


@pytest.mark.parametrize("program", ["tar", "zip"])
def test_archives_of_the_ordinary_programs_come_out(tmp_path, program):
    if shutil.which(program) is None:
        pytest.skip(f"no {program} program")
    source = tmp_path / "source"
    for name, data in FILES.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    (source / "set" / "none").mkdir()
    archive = tmp_path / f"a.{'zip' if program == 'zip' else 'tar.gz'}"
    options = ["zip", "-qr", archive, "."] if program == "zip" else ["tar", "-czf", archive, "./"]
    subprocess.run(options, cwd=source, check=True, env=os.environ | {"LC_ALL": "C.UTF-8"})
    unpack(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == FILES
    assert (tmp_path / "out" / "set" / "none").is_dir()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/evil", "is absolute"),
        ("../evil", "holds '..'"),
        ("set/../../evil", "holds '..'"),
        ("..\\evil", "Windows"),
        ("C:/evil", "Windows"),
        ("set/labels/01.txt", "stands twice"),
        ("set/./labels//01.txt", "stands twice"),
        ("set/frames/01/e\u0301.png", "stands twice"),
        ("set/labels", "is a file and a folder at once"),
        ("set/labels/01.txt/x", "is a file and a folder at once"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_names_are_refused_and_nothing_is_left(tmp_path, form, name, reason):
    archive = make(tmp_path / f"a.{form}", [*FILES.items(), (name, b"evil")])
    with pytest.raises(ArchiveError) as raised:
        unpack(archive, tmp_path / "out" / "here")
    message = str(raised.value)
    assert message.startswith(f"{archive}: member {name!r} ")
    assert reason in message
    assert list((tmp_path / "out").iterdir()) == []
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        *[
            (kind, link)
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE)
            for link in ("/etc/passwd", "../../outside", "../../../outside", "a/../../../outside")
        ],
        # From the root of the archive; as a symbolic link, which is relative to set/, it would stay inside.
        (tarfile.LNKTYPE, "set/../../outside"),
    ],
)
def test_links_that_leave_the_folder_are_refused(tmp_path, kind, link):
    (tmp_path / "outside").write_text("secret")
    members = [("set/a.txt", b"1"), (entry("set/link", kind, link), b"")]
    with pytest.raises(ArchiveError, match=r"member 'set/link' .*out of the folder"):
        unpack(make_tar(tmp_path / "a.tar", members), tmp_path / "out" / "here")
    assert list((tmp_path / "out").iterdir()) == []


def test_links_that_together_leave_the_folder_are_refused(tmp_path):
    """Each stays inside by its words alone: x/.. is the folder itself until x is a link to it."""
    chain = [
        (entry("l", tarfile.SYMTYPE, "x/.."), b""),
        (entry("x", tarfile.SYMTYPE, "."), b""),
    ]
    for members in (chain, [*chain, ("l/evil", b"evil")]):
        with pytest.raises(ArchiveError, match=r"leaves the folder|out of the folder"):
            unpack(make_tar(tmp_path / "a.tar", members), tmp_path / "out" / "here")
        assert list((tmp_path / "out").iterdir()) == []
    assert not list(tmp_path.rglob("evil"))


def test_a_zip_with_a_link_out_of_the_folder_is_refused(tmp_path):
    info = zipfile.ZipInfo("set/link")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(ArchiveError, match=r"'set/link' is a link to '\.\./\.\./outside'"):
        unpack(make_zip(tmp_path / "a.zip", [(info, "../../outside")]), tmp_path / "out")


def test_links_within_the_folder_are_kept(tmp_path):
    members = [
        ("set/a.txt", b"1"),
        (entry("set/soft", tarfile.SYMTYPE, "../set/a.txt"), b""),
        (entry("set/hard", tarfile.LNKTYPE, "set/a.txt"), b""),
    ]
    unpack(make_tar(tmp_path / "a.tar", members), tmp_path / "out")
    assert tree(tmp_path / "out") == {f"set/{n}": b"1" for n in ("a.txt", "soft", "hard")}
    assert (tmp_path / "out" / "set" / "soft").is_symlink()


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_pipes_are_refused(tmp_path, kind):
    with pytest.raises(ArchiveError, match="member 'dev' is a device"):
        unpack(make_tar(tmp_path / "a.tar", [(entry("dev", kind), b"")]), tmp_path / "out")


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_bombs_are_refused(tmp_path, form, monkeypatch):
    monkeypatch.setattr(archives, "_HARMLESS", 1 << 20)
    bomb = [(f"{k}.bin", bytes(500_000)) for k in range(8)]
    with pytest.raises(ArchiveError, match=r"member '2\.bin' makes 1500000 bytes of \d+ packed ones"):
        unpack(make(tmp_path / f"a.{form}", bomb), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    # As large, but with content.
    honest = [(f"{k}.bin", random.Random(k).randbytes(500_000)) for k in range(8)]
    assert unpack(make(tmp_path / f"b.{form}", honest), tmp_path / "out").files == 8


def test_a_declared_size_that_is_too_large_is_refused_before_it_is_written(tmp_path):
    archive = tmp_path / "a.tar"
    archive.write_bytes(entry("huge", size=1 << 40).tobuf() + bytes(2048))
    with pytest.raises(ArchiveError, match=r"member 'huge' makes 1099511627776 bytes"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.97])
def test_a_cut_archive_is_reported_and_continues_when_whole(tmp_path, form, share):
    whole = make(tmp_path / f"a.{form}", FILES.items()).read_bytes()
    archive = tmp_path / f"a.{form}"
    archive.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ArchiveError, match=rf"a\.{form}: not a whole archive .*download it again"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    archive.write_bytes(whole)
    unpack(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == FILES


@pytest.mark.parametrize("form", ["tar", "tar.gz"])
def test_a_tar_cut_between_two_members_is_not_taken_for_whole(tmp_path, form):
    archive = make_tar(tmp_path / "a.tar", FILES.items())
    with tarfile.open(archive) as file:
        end = file.getmembers()[2].offset
    data = archive.read_bytes()[:end]
    path = tmp_path / f"b.{form}"
    path.write_bytes(gzip.compress(data) if form == "tar.gz" else data)
    with pytest.raises(ArchiveError, match="not a whole archive"):
        unpack(path, tmp_path / "out")


def test_a_damaged_header_or_content_is_reported(tmp_path):
    for form in ("tar", "zip", "tar.gz"):
        archive = make(tmp_path / f"a.{form}", FILES.items())
        data = bytearray(archive.read_bytes())
        if form == "tar":
            with tarfile.open(archive) as file:
                at = file.getmembers()[2].offset + 20
        else:
            at = len(data) // 2
        data[at] ^= 0xFF
        archive.write_bytes(data)
        with pytest.raises(ArchiveError, match="not a whole archive"):
            unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("form", FORMS)
def test_an_interrupted_run_continues(tmp_path, form, monkeypatch):
    archive = make(tmp_path / f"a.{form}", FILES.items())
    copy, copied = archives._Unpacking._copy, []

    def full(self, member, path, stream):
        copied.append(member.name)
        if len(copied) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copy(self, member, path, stream)

    monkeypatch.setattr(archives._Unpacking, "_copy", full)
    with pytest.raises(ArchiveError, match=r"No space left.*run again"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    found = unpack(archive, tmp_path / "out")
    assert (found.files, found.written) == (4, 2)
    assert tree(tmp_path / "out") == FILES


def test_a_disk_without_room_is_said_before_it_is_full(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "a.zip", FILES.items())
    usage = shutil.disk_usage(tmp_path)._replace(free=archives._RESERVE + 100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ArchiveError, match=r"no room for member .*run again"):
        unpack(archive, tmp_path / "out")


def test_a_folder_that_is_there_is_not_touched(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ArchiveError, match="is already there"):
        unpack(make_zip(tmp_path / "a.zip", FILES.items()), tmp_path / "out")


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\3\4 but no zip"])
def test_files_that_are_no_archive_are_named(tmp_path, data):
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(ArchiveError, match=r"a\.zip: not a whole archive"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_a_zip_in_a_tar_is_not_taken_for_a_zip(tmp_path):
    inner = make_zip(tmp_path / "inner.zip", [("x", b"1")]).read_bytes()
    unpack(make_tar(tmp_path / "a.tar", [("inner.zip", inner)]), tmp_path / "out")
    assert tree(tmp_path / "out") == {"inner.zip": inner}


def test_an_encrypted_zip_is_refused(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [("x", b"1")])
    data = bytearray(archive.read_bytes())
    # The general purpose flags in the local and in the central header.
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"member 'x' is .*encrypted"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("name", ["a.png", "deep/er/a.png", "./a.png", "a..b/c...png", "not there/x", "a:b"])
def test_paths_below_the_folder_are_joined(tmp_path, name):
    (tmp_path / "a.png").touch()
    if name == "a:b":
        with pytest.raises(LabelError, match="Windows"):
            inside(tmp_path, name, "t:1")
    else:
        assert inside(tmp_path, name, "t:1") == tmp_path / name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/passwd", "is absolute"),
        ("../x", "holds '..'"),
        ("a/../../x", "holds '..'"),
        ("a/..", "holds '..'"),
        ("", "is empty"),
        (".", "is empty"),
        ("a\0b", "NUL"),
        ("a\\b.png", "Windows"),
        ("D:/high_light_images/1.jpg", "Windows"),
    ],
)
def test_paths_that_leave_the_folder_are_refused(tmp_path, name, reason):
    with pytest.raises(LabelError) as raised:
        inside(tmp_path, name, "labels.csv:7")
    assert str(raised.value).startswith(f"labels.csv:7: path {name!r} ")
    assert reason in str(raised.value)


def test_links_out_of_the_folder_are_refused_and_links_within_are_not(tmp_path):
    root, other = tmp_path / "root", tmp_path / "root-other"
    (root / "in").mkdir(parents=True)
    other.mkdir()
    (other / "x.png").touch()
    (root / "in" / "x.png").touch()
    (root / "out").symlink_to(other)
    (root / "file.png").symlink_to(other / "x.png")
    (root / "again").symlink_to("in")
    for name in ("out/x.png", "out/missing.png", "file.png"):
        with pytest.raises(LabelError, match=f"t:1: path '{name}' leads out of"):
            inside(root, name, "t:1")
    assert inside(root, "again/x.png", "t:1").is_file()
    # The folder itself may be reached through a link.
    (tmp_path / "alias").symlink_to(root)
    assert inside(tmp_path / "alias", "in/x.png", "t:1").is_file()
