"""Headers of a tar: what is read without tarfile is what tarfile would have read."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import SourceError
from embedstore.sources.tarindex import Member, members

KINDS = [tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, b"V"]
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=9) | st.builds(
    lambda folder, name, end: f"{'a' * folder}/{'b' * name}{end}",
    st.sampled_from([1, 60, 150]),
    st.sampled_from([1, 70, 95]),
    st.sampled_from(["", "/", ".jpg"]),
)
DEVICES = [bytes(16), b"0000000 " * 2, b"no number", b"\x80" + bytes(15)]


@st.composite
def entries(draw: st.DrawFn) -> tuple[tarfile.TarInfo, bytes]:
    """One member, as common as they come or odd in any field."""
    info = tarfile.TarInfo(draw(NAMES))
    data = bytes(draw(st.sampled_from([0, 1, 512, 700])))
    info.size, info.type = len(data), draw(st.sampled_from(KINDS[:2]))
    if draw(st.integers(0, 3)) == 0:
        info.type = draw(st.sampled_from(KINDS))
        info.mode = draw(st.sampled_from([0, 0o644, 0o7777777, 8**7]))
        info.uid = draw(st.sampled_from([0, 1000, 8**7 - 1, 8**7]))
        info.mtime = draw(st.sampled_from([0, 1.5, 8**11 - 1, 8**11, -1]))
        info.linkname = draw(st.sampled_from(["", "x", "y" * 200]))
        info.uname = draw(st.sampled_from(["", "root", "ünï"]))
        info.devmajor = draw(st.sampled_from([0, 7]))
        info.pax_headers = draw(
            st.sampled_from([{}, {"size": "3"}, {"path": "other.jpg"}, {"GNU.sparse.realsize": "9"}])
        )
    return info, data


@st.composite
def tars(draw: Any) -> bytes:
    """A tar of any format; some with a global header, some with a byte changed in a header, some cut short."""
    form: Any = draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    buffer = io.BytesIO()
    headers: list[int] = []
    for info, data in draw(st.lists(entries(), max_size=6)):
        if draw(st.integers(0, 9)) == 0:
            buffer.write(tarfile.TarInfo.create_pax_global_header({"path": "global.jpg"}))
        try:
            header = info.tobuf(form, "utf-8", "surrogateescape")
        except ValueError:  # what this format cannot say
            continue
        if not info.pax_headers and len(header) == 512 and draw(st.booleans()):
            header = header[:329] + draw(st.sampled_from(DEVICES)).ljust(16, b"\0") + header[345:]
            header = header[:148] + b"%06o\0 " % (sum(header[:148] + header[156:]) + 256) + header[156:]
        headers.extend(range(buffer.tell(), buffer.tell() + len(header)))
        buffer.write(header + data + bytes(-len(data) % 512))
    raw = bytearray(buffer.getvalue() + bytes(1024))
    if headers and draw(st.integers(0, 1)):
        raw[draw(st.sampled_from(headers))] ^= draw(st.integers(1, 255))
    return bytes(raw[: draw(st.sampled_from([len(raw), len(raw) - 1, len(raw) // 2]))])


def by_tarfile(raw: bytes) -> list[Member] | None:
    """Regular files, until tarfile ends or gives up; None where it does not even open."""
    try:
        tar = tarfile.open(fileobj=io.BytesIO(raw), mode="r:", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    except tarfile.TarError:
        return None
    found = []
    try:
        for info in tar:
            if info.isreg() and info.issparse():
                break
            if info.isreg():
                found.append(Member(info.name, info.offset_data, info.size))
    except (tarfile.TarError, ValueError, OverflowError):
        pass
    return found


@given(raw=tars())
@settings(max_examples=500)
def test_any_tar_is_read_as_tarfile_reads_it(raw: bytes) -> None:
    found, expected = [], by_tarfile(raw)
    try:
        for member in members(io.BytesIO(raw), "x.tar"):
            found.append(member)
    except SourceError:
        pass
    assert found == (expected or [])


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_common_tars_are_read_without_tarfile(form: int, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer, asked = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for number in range(50):
            info = tarfile.TarInfo(f"{number:06}.jpg")
            info.size = number
            tar.addfile(info, io.BytesIO(bytes(number)))
    following = tarfile.TarFile.next

    def counted(self: tarfile.TarFile) -> Any:
        asked.append(self)
        return following(self)

    monkeypatch.setattr(tarfile.TarFile, "next", counted)
    assert [member.length for member in members(buffer, "x.tar")] == list(range(50))
    assert len(asked) <= 3, "the first, and the end"
