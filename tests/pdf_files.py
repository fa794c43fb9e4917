"""PDF files written by hand, so that reading them is tested on what a file really holds."""

import io
from collections.abc import Sequence


def pdf(pages: Sequence[str]) -> bytes:
    """A PDF with a line of Helvetica for each line of a page's text; "" makes an empty page."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, text in enumerate(pages):
        drawn = "".join(f"({_escaped(line)}) Tj 0 -14 Td " for line in text.splitlines())
        stream = f"BT /F1 12 Tf 72 720 Td {drawn}ET" if text else ""
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] "
            f"/Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * i} 0 R >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    return _file(objects)


def _escaped(line: str) -> str:
    return line.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")


def _file(objects: Sequence[str]) -> bytes:
    out, offsets = io.BytesIO(), list[int]()
    out.write(b"%PDF-1.4\n")
    for number, content in enumerate(objects, 1):
        offsets.append(out.tell())
        out.write(f"{number} 0 obj\n{content}\nendobj\n".encode("latin-1"))
    start = out.tell()
    out.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode())
    out.write("".join(f"{offset:010d} 00000 n \n" for offset in offsets).encode())
    size = len(objects) + 1
    out.write(f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode())
    return out.getvalue()


def with_outline(content: bytes, entries: Sequence[tuple[str, int, int]]) -> bytes:
    """The PDF with an outline of (title, page from 0, depth from 0)."""
    from pypdf import PdfWriter

    writer = PdfWriter(clone_from=io.BytesIO(content))
    parents: list[object] = []
    for title, page, depth in entries:
        parent = parents[depth - 1] if depth else None
        parents[depth:] = [writer.add_outline_item(title=title, page_number=page, parent=parent)]  # type: ignore
    return _written(writer)


def encrypted(content: bytes, password: str, owner: str = "owner") -> bytes:
    """The PDF, encrypted (RC4, which needs no further package)."""
    from pypdf import PdfWriter

    writer = PdfWriter(clone_from=io.BytesIO(content))
    writer.encrypt(password, owner, algorithm="RC4-128")
    return _written(writer)


def _written(writer: object) -> bytes:
    out = io.BytesIO()
    writer.write(out)  # type: ignore[attr-defined]
    return out.getvalue()
