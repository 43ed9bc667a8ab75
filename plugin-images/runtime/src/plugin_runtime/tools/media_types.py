"""Names, suffixes and media types of files: what each says of the others, and what a file's first bytes say. Pure."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mimetypes

SAFE = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-+")
MAX_SUFFIX = 10  # characters
MAX_SUFFIXES = 4
SUFFIXES = {
    "application/epub+zip": ".epub",
    "application/geo+json": ".geojson",
    "application/gzip": ".gz",
    "application/java-archive": ".jar",
    "application/javascript": ".js",
    "application/ld+json": ".jsonld",
    "application/msword": ".doc",
    "application/ogg": ".ogg",
    "application/postscript": ".ps",
    "application/rtf": ".rtf",
    "application/tar+gzip": ".tar.gz",
    "application/vnd.apache.parquet": ".parquet",
    "application/vnd.ms-excel": ".xls",
    "application/vnd.ms-powerpoint": ".ppt",
    "application/vnd.oasis.opendocument.presentation": ".odp",
    "application/vnd.oasis.opendocument.spreadsheet": ".ods",
    "application/vnd.oasis.opendocument.text": ".odt",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": ".pptx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ".xlsx",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
    "application/vnd.rar": ".rar",
    "application/vnd.sqlite3": ".sqlite",
    "application/x-7z-compressed": ".7z",
    "application/x-bzip2": ".bz2",
    "application/x-compressed-tar": ".tar.gz",
    "application/x-gzip": ".gz",
    "application/x-hdf5": ".h5",
    "application/x-matroska": ".mkv",
    "application/x-ndjson": ".ndjson",
    "application/x-rar-compressed": ".rar",
    "application/x-tar": ".tar",
    "application/x-xz": ".xz",
    "application/x-yaml": ".yaml",
    "application/x-zip-compressed": ".zip",
    "application/zstd": ".zst",
    "audio/3gpp": ".3gp",
    "audio/basic": ".au",
    "audio/mp3": ".mp3",
    "audio/mp4": ".m4a",
    "audio/mpeg": ".mp3",
    "audio/mpeg3": ".mp3",
    "audio/vnd.wave": ".wav",
    "audio/vorbis": ".ogg",
    "audio/wave": ".wav",
    "audio/x-aac": ".aac",
    "audio/x-aiff": ".aiff",
    "audio/x-caf": ".caf",
    "audio/x-flac": ".flac",
    "audio/x-m4a": ".m4a",
    "audio/x-matroska": ".mka",
    "audio/x-mp3": ".mp3",
    "audio/x-mpeg": ".mp3",
    "audio/x-ms-wma": ".wma",
    "audio/x-pn-wav": ".wav",
    "audio/x-wav": ".wav",
    "image/jpeg": ".jpg",
    "image/pjpeg": ".jpg",
    "image/svg+xml": ".svg",
    "image/tiff": ".tiff",
    "image/vnd.adobe.photoshop": ".psd",
    "image/vnd.djvu": ".djvu",
    "image/vnd.microsoft.icon": ".ico",
    "image/vnd.radiance": ".hdr",
    "image/x-bmp": ".bmp",
    "image/x-icon": ".ico",
    "image/x-ms-bmp": ".bmp",
    "image/x-png": ".png",
    "image/x-portable-anymap": ".pnm",
    "image/x-portable-bitmap": ".pbm",
    "image/x-portable-graymap": ".pgm",
    "image/x-portable-pixmap": ".ppm",
    "image/x-tga": ".tga",
    "image/x-webp": ".webp",
    "message/rfc822": ".eml",
    "model/gltf+json": ".gltf",
    "model/gltf-binary": ".glb",
    "text/calendar": ".ics",
    "text/javascript": ".js",
    "text/markdown": ".md",
    "text/plain": ".txt",
    "text/tab-separated-values": ".tsv",
    "text/x-python": ".py",
    "text/x-yaml": ".yaml",
    "video/3gpp": ".3gp",
    "video/3gpp2": ".3g2",
    "video/matroska": ".mkv",
    "video/mp2t": ".ts",
    "video/quicktime": ".mov",
    "video/vnd.avi": ".avi",
    "video/x-flv": ".flv",
    "video/x-m4v": ".m4v",
    "video/x-matroska": ".mkv",
    "video/x-mpeg": ".mpeg",
    "video/x-ms-asf": ".asf",
    "video/x-ms-wmv": ".wmv",
    "video/x-msvideo": ".avi",
}
"""Where the suffix is not the subtype itself: libraries choose the format by it."""
UNKNOWN = frozenset({"", "octet-stream", "x-www-form-urlencoded", "binary", "unknown"})


def safe_suffixes(file_name: str) -> str:
    """`.nii.gz` of `a/scan.NII.gz`: the last suffixes of a name, as far as they are usual."""
    *suffixes, last = base_name(file_name).lower().split(".")[-MAX_SUFFIXES - 1 :]
    if not suffixes:
        return ""
    found = ""
    for suffix in [last, *reversed(suffixes[1:])]:
        if not 0 < len(suffix) <= MAX_SUFFIX or not SAFE.issuperset(suffix):
            break
        found = f".{suffix}{found}"
    return found


def base_name(file_name: str) -> str:
    """The last component of a caller's path, as any system writes them."""
    return file_name.replace("\\", "/").rpartition("/")[2]


def suffix_of_media_type(media_type: str) -> str:
    """`.png` of `image/png`, for an upload without a file name."""
    known = SUFFIXES.get(media_type)
    if known is not None:
        return known
    subtype = media_type.partition("/")[2]
    if subtype in UNKNOWN:
        return ""
    subtype = subtype.rpartition("+")[2].removeprefix("x-").removeprefix("vnd.")
    return f".{subtype}" if 0 < len(subtype) <= MAX_SUFFIX and subtype.isalnum() and subtype.isascii() else ""


OCTETS = "application/octet-stream"
OF_ARRAYS = {"application/x-npy": ".npy", "application/x-npz": ".npz", "application/x-ndjson": ".jsonl"}
SNIFFED = 64
"""Bytes at its start that say what a file is."""
MAX_NAME = 100  # bytes
MAGIC = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF8", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (0, b"II*\0", "image/tiff"),
    (0, b"MM\0*", "image/tiff"),
    (4, b"ftypavif", "image/avif"),
    (4, b"ftypheic", "image/heic"),
    (4, b"ftypqt  ", "video/quicktime"),
    (4, b"ftypM4A ", "audio/mp4"),
    (4, b"ftyp", "video/mp4"),
    (8, b"WAVE", "audio/wav"),
    (8, b"AVI ", "video/x-msvideo"),
    (0, b"OggS", "application/ogg"),
    (0, b"fLaC", "audio/flac"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"PK\x03\x04", "application/zip"),
    (0, b"\x1f\x8b", "application/gzip"),
    (0, b"\x93NUMPY", "application/x-npy"),
    (0, b"PAR1", "application/vnd.apache.parquet"),
    (0, b"glTF", "model/gltf-binary"),
    (0, b"SQLite format 3\0", "application/vnd.sqlite3"),
)
"""Offset, the bytes there, and the media type; the first counts."""


def sniffed_media_type(start: bytes) -> str | None:
    """Of a file that starts with these bytes; None where they say nothing."""
    for offset, magic, media_type in MAGIC:
        if start.startswith(magic, offset):
            return media_type
    if start.startswith(b"\x1aE\xdf\xa3"):
        return "video/webm" if b"webm" in start else "video/x-matroska"
    if start.startswith(b"BM") and start[6:10] == bytes(4):  # two letters alone would find too many
        return "image/bmp"
    return None


def media_type_of_name(name: str) -> str | None:
    """`text/csv` of `table.csv`; None of a name whose suffix is unknown."""
    known, by_suffix = _types()
    media_type, compression = known.guess_type(f"file:{name}", strict=False)
    if compression is not None:
        return {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}.get(compression)
    return media_type or by_suffix.get(safe_suffixes(name)) or by_suffix.get(f".{name.rpartition('.')[2].lower()}")


def file_name(name: str, media_type: str = "") -> str:
    """`name` as a single component that any system takes, with letters of any script; with the suffix of `media_type`,
    where given.
    """
    import unicodedata  # noqa: PLC0415 - only results with files need it

    kinds = [(letter, unicodedata.category(letter)[0]) for letter in unicodedata.normalize("NFC", base_name(name))]
    safe = "".join(letter if kind in "LMN" or letter in "._-" else "_" for letter, kind in kinds)
    while safe and safe[0] != "_" and unicodedata.category(safe[0])[0] not in "LN":
        safe = safe[1:]
    suffix = (suffix_of_media_type(media_type) or ".bin") if media_type else ""
    stem, dot, last = safe.rpartition(".")
    if not suffix and stem and len(last.encode()) <= MAX_SUFFIX:
        safe, suffix = stem, dot + last
    return (safe.encode()[: MAX_NAME - len(suffix.encode())].decode(errors="ignore") or "file") + suffix


def numbered(name: str, number: int) -> str:
    """`overlay-2.png` of `overlay.png`."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}-{number}{dot}{suffix}" if stem else f"{name}-{number}"


@functools.cache
def _types() -> tuple[mimetypes.MimeTypes, dict[str, str]]:
    import mimetypes  # noqa: PLC0415 - reads a file of the system, and only results with files need it

    return mimetypes.MimeTypes(), {
        suffix: media_type for media_type, suffix in reversed((SUFFIXES | OF_ARRAYS).items())
    }
