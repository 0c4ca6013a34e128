"""Media types by a file's name.

A table of our own: the `mimetypes` module reads the files of the system it runs on, so
that the same site would be served differently on two machines.
"""

from typing import Final

UNKNOWN: Final = "application/octet-stream"

_TYPES: Final = {
    extension: media_type
    for media_type, extensions in {
        "application/atom+xml": "atom",
        "application/epub+zip": "epub",
        "application/gzip": "gz tgz",
        "application/java-archive": "jar",
        "application/json": "json map",
        "application/ld+json": "jsonld",
        "application/geo+json": "geojson",
        "application/manifest+json": "webmanifest",
        "application/msword": "doc",
        "application/ogg": "ogx",
        "application/pdf": "pdf",
        "application/rss+xml": "rss",
        "application/rtf": "rtf",
        "application/vnd.ms-excel": "xls",
        "application/vnd.ms-fontobject": "eot",
        "application/vnd.ms-powerpoint": "ppt",
        "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
        "application/wasm": "wasm",
        "application/x-7z-compressed": "7z",
        "application/x-bzip2": "bz2",
        "application/x-tar": "tar",
        "application/x-xz": "xz",
        "application/xhtml+xml": "xhtml",
        "application/xml": "xml xsl",
        "application/zip": "zip",
        "application/zstd": "zst",
        "audio/aac": "aac",
        "audio/flac": "flac",
        "audio/midi": "mid midi",
        "audio/mp4": "m4a",
        "audio/mpeg": "mp3",
        "audio/ogg": "oga ogg opus",
        "audio/wav": "wav",
        "audio/webm": "weba",
        "font/otf": "otf",
        "font/ttf": "ttf",
        "font/woff": "woff",
        "font/woff2": "woff2",
        "image/apng": "apng",
        "image/avif": "avif",
        "image/bmp": "bmp",
        "image/gif": "gif",
        "image/heic": "heic",
        "image/jpeg": "jpeg jpg",
        "image/jxl": "jxl",
        "image/png": "png",
        "image/svg+xml": "svg",
        "image/tiff": "tif tiff",
        "image/vnd.microsoft.icon": "ico",
        "image/webp": "webp",
        "model/gltf+json": "gltf",
        "model/gltf-binary": "glb",
        "text/calendar": "ics",
        "text/css": "css",
        "text/csv": "csv",
        "text/html": "htm html",
        "text/javascript": "js mjs",
        "text/markdown": "markdown md",
        "text/plain": "conf ini log text txt",
        "text/vcard": "vcf",
        "text/vtt": "vtt",
        "video/mp2t": "ts",
        "video/mp4": "m4v mp4",
        "video/mpeg": "mpeg mpg",
        "video/ogg": "ogv",
        "video/quicktime": "mov",
        "video/webm": "webm",
        "video/x-matroska": "mkv",
        "video/x-msvideo": "avi",
    }.items()
    for extension in extensions.split()
}


def guess_media_type(name: str) -> str:
    """The Content-Type of a file, told from the last extension of its name.

    Text is said to be UTF-8. What is unknown is "application/octet-stream", which no
    browser runs.
    """
    _, dot, extension = name.rpartition(".")
    media_type = _TYPES.get(extension.lower(), UNKNOWN) if dot else UNKNOWN
    return f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type
