"""What a kind of file is: which names it has, what its records hold, and how they are read.

One file of this folder describes each kind; `choice.py` lists them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from reformer_dist.config.sections.data import DataConfig
from reformer_dist.data.reading.columns import Wanted
from reformer_dist.data.reading.finding.sources import Listing
from reformer_dist.data.reading.records import Record, Records
from reformer_dist.data.reading.slices import FileSlice


@dataclass(frozen=True)
class Reader:
    """A kind of file.

    Attributes:
        suffixes: ends of the names of such files, in small letters.
        contents: kinds of content that its documents are.
        read: the records that begin in a slice, in order. Raises NotText or BadDocument for a file that is none of the
            kind, and what pyarrow, zlib and the store raise where it breaks off.
        beside: kinds of content that its columns may also hold, beside one of `contents` (labels of images, say).
        columns: columns that every such file has; None where each file names its own, () where a file is one document.
        is_sliced: whether a task can find where the first document of its slice begins.
        read_small: a file that is one small document, whole, in as little time as there can be; None for one that
            `read` must read.
        gather: puts files together whose records lie in several; None where each lies in one.
    """

    suffixes: tuple[str, ...]
    contents: tuple[str, ...]
    read: Callable[[FileSlice, Wanted], Iterator[Record | Records]]
    beside: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    is_sliced: bool = False
    read_small: Callable[[FileSlice], bytes | None] | None = None
    gather: Callable[[Listing, DataConfig], Listing] | None = None

    @property
    def is_one_document(self) -> bool:
        """Whether a file is one document, which may come in pieces."""
        return self.columns == ()
