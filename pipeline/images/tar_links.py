"""Links in a tar: names for the content of another member, as unpacking would make them."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from typing import NamedTuple

from pipeline.images.files import problem
from pipeline.images.items import Entry, is_named_as_image, is_visible
from pipeline.images.paths import LONGEST_NAME, SHOWN_OF_NAME, placed
from pipeline.system.console import UserError

MOST_LINKS = 1_000_000  # in one archive: those are kept in memory
MOST_IN_A_ROW = 40  # links to links that Linux follows
OUT = "a link out of the archive"
TO_A_FOLDER = "a link to a folder"
NOWHERE = "a link that leads nowhere"
NOT_BEFORE = "a hard link to a file that does not come before it"


class Link(NamedTuple):
    number: int  # of the member
    path: str
    target: str | None  # path in the archive; None where it leads out
    is_hard: bool
    leads_to: str  # as it is written

    @classmethod
    def of(cls, number: int, path: str, member: tarfile.TarInfo) -> Link:
        """The link that a member is. A hard link names a path in the archive, a symbolic one starts at its folder."""
        leads_to = member.linkname
        target = None
        if len(leads_to) <= LONGEST_NAME and (member.islnk() or not leads_to.startswith("/")):
            target = placed(leads_to if member.islnk() else f"{path.rpartition('/')[0]}/{leads_to}")
        return cls(number, path, target, member.islnk(), leads_to[:SHOWN_OF_NAME])


class Links:
    """Where the links of an archive lead: `shared` has the paths of those to each member, by its number.

    `members` are all of the archive again, with their paths. `unread` has entries for those that are named as images
    and lead nowhere, and for hidden ones. Raises UserError for any other that leads to no file in the archive: it may
    stand for a whole class.
    """

    def __init__(self, archive: str, links: list[Link], members: Iterable[tuple[str | None, tarfile.TarInfo]]) -> None:
        self.wanted = {link.target for link in links if link.target is not None}
        self.latest: dict[str, int | Link] = {}  # the last member of a wanted path: a file's number, or a symbolic link
        self.folders = {""}  # among the wanted paths
        hard = self.collect({link.number: link for link in links}, members)
        self.shared: dict[int, list[str]] = {}
        self.unread: list[Entry] = []
        for link in links:
            number, why = (hard.get(link.number), NOT_BEFORE) if link.is_hard else self.follow(link)
            if number is not None:
                self.shared.setdefault(number, []).append(link.path)
            elif not is_visible(link.path) or (why == NOWHERE and is_named_as_image(link.path)):
                self.unread.append(problem(link.path, "unreadable", why))
            else:
                raise UserError(
                    f"{archive}: {link.path} is {why} ({link.leads_to}); expected files: tar --dereference"
                    " --hard-dereference puts what links lead to in their place"
                )

    def collect(
        self, links: dict[int, Link], members: Iterable[tuple[str | None, tarfile.TarInfo]]
    ) -> dict[int, int | None]:
        """Fill `latest` and `folders`. Returns the member that each hard link shares its content with, if there is one.

        A hard link shares the last member of its target's name before it; a symbolic link leads to the last of all
        members of that name.
        """
        hard: dict[int, int | None] = {}
        for number, (path, member) in enumerate(members):
            if not path:
                continue
            content: int | Link | None = links.get(number) or (number if member.isreg() else None)
            if isinstance(content, Link) and content.is_hard:
                found = self.latest.get(content.target or "")
                content = hard[number] = found if isinstance(found, int) else None
            if content is not None and path in self.wanted:
                self.latest[path] = content
            parents = [path[:at] for at, sign in enumerate(path) if sign == "/"] + [path] * member.isdir()
            self.folders.update(self.wanted.intersection(parents))
        return hard

    def follow(self, link: Link) -> tuple[int | None, str]:
        """The number of the member that a symbolic link leads to, at last; else None and why."""
        for _ in range(MOST_IN_A_ROW):
            if link.target is None:
                return None, OUT
            found = self.latest.get(link.target)
            if not isinstance(found, Link):
                return found, TO_A_FOLDER if link.target in self.folders else NOWHERE
            link = found
        return None, NOWHERE
