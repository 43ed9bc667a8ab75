"""The suffix of an upload's file: from its name, or from its media type. Pure."""

from __future__ import annotations

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
