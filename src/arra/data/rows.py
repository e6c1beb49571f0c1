"""What a captioned picture is, what is refused, and the interface of every place rows come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from arra.errors import InputError
from arra.files import to_plain


@dataclass(frozen=True)
class Limits:
    """What is accepted from outside, and how the choices that a file leaves open are made."""

    max_pixels: int = 64_000_000
    """Largest width x height, read from the header before anything is decoded.

    Pillow has a limit of its own, 178 956 970, which a larger number here does not lift."""
    max_bytes: int = 64 << 20
    """Largest encoded picture in bytes."""
    max_caption: int = 4096
    """Longest caption in characters."""
    min_side: int = 1
    """Shortest side, in pixels, that a picture may have."""
    bad_share: float = 0.1
    """Share of rows that may be unusable before work stops (0 to 1)."""
    background: tuple[int, int, int] = (255, 255, 255)
    """RGB colour that is put behind transparent pixels."""
    animation: Literal["first", "refuse"] = "first"
    """Of pictures with several frames or pages: use the first and note it, or refuse the row."""
    reduced: int = 0
    """JPEGs are decoded at a half, a quarter or an eighth of their size where both sides keep this
    many pixels: photographs are read several times as fast, with slightly other pixels. Twice the
    size to which pictures are fitted is a good choice; 0 decodes them whole."""

    def __post_init__(self) -> None:
        for name in ("max_pixels", "max_bytes", "max_caption", "min_side"):
            if getattr(self, name) < 1:
                raise InputError(f"Limits.{name}: {getattr(self, name)}, expected 1 or more")
        if self.reduced < 0:
            raise InputError(f"Limits.reduced: {self.reduced}, expected 0 or more pixels")
        if not 0 <= self.bad_share <= 1:
            raise InputError(f"Limits.bad_share: {self.bad_share}, expected a share from 0 to 1")
        if len(self.background) != 3 or not all(0 <= value <= 255 for value in self.background):
            raise InputError(f"Limits.background: {self.background}, expected RGB from 0 to 255")
        if self.animation not in ("first", "refuse"):
            raise InputError(f"Limits.animation: {self.animation!r}, expected first or refuse")

    def identity(self) -> dict[str, Any]:
        """The fields that decide what a row is; `bad_share` only decides when work stops."""
        left_out = {"bad_share"} if self.reduced else {"bad_share", "reduced"}
        return {key: value for key, value in to_plain(self).items() if key not in left_out}


@dataclass(frozen=True)
class Classes:
    """How captions are made where pictures have class labels instead."""

    template: str = "{label}"
    """The caption; {label} stands for the name of the class, as in "a photo of a {label}"."""
    names: tuple[str, ...] = ()
    """Names of the classes 0, 1, 2, ...; without them those that the files hold, else numbers."""

    def __post_init__(self) -> None:
        if "{label}" not in self.template:
            raise InputError(f"Classes.template: {self.template!r}, expected {{label}} in it")
        if len(set(self.names)) != len(self.names):
            raise InputError(f"Classes.names: {self.names}, one of them stands there twice")


@dataclass(frozen=True)
class Clips:
    """How videos are cut into clips."""

    frames: int | None = None
    """Frames of a clip; unless given, a source holds pictures, not videos."""
    rate: float | None = None
    """Frames a second that are taken, at most those of the video; unless given, every frame."""
    stride: int | None = None
    """From the beginning of one clip to that of the next, in frames that are taken; unless given,
    as many as a clip has: clips do not overlap."""

    def __post_init__(self) -> None:
        for name in ("frames", "stride"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"Clips.{name}: {value}, expected 1 or more")
        if self.rate is not None and not 0 < self.rate < 1000:
            raise InputError(f"Clips.rate: {self.rate}, expected frames a second, more than 0")
        if self.frames is None and (self.rate, self.stride) != (None, None):
            raise InputError("Clips.frames: say how many frames a clip has; rate and stride do not")


@dataclass(frozen=True)
class Question:
    """A question about a picture and its answer, each clean as captions are."""

    question: str
    answer: str


def listed_questions(rows: Iterable[Sequence[Question]]) -> list[list[list[str]]]:
    """The questions of rows as JSON can hold them; nothing where not one row has any."""
    found = [[[one.question, one.answer] for one in row] for row in rows]
    return found if any(found) else []


@dataclass(frozen=True)
class Row:
    """One captioned picture."""

    key: str
    """Unique in its source and the same on every machine, such as `birds/wren.png`."""
    image: Image.Image
    """RGB, 8 bits a channel, upright."""
    caption: str
    """Not empty, on one line, without control characters."""
    notes: tuple[str, ...] = ()
    """What was decided for this row, such as that only the first frame is used."""
    questions: tuple[Question, ...] = ()
    """What is asked about the picture, maybe nothing."""


@dataclass(frozen=True)
class ClipRow(Row):
    """One captioned clip; `image` is its middle frame, for whoever looks at single pictures."""

    frames: tuple[Image.Image, ...] = ()
    """All T frames, RGB, of one size."""

    @classmethod
    def of(
        cls, key: str, frames: Sequence[Image.Image], caption: str, notes: tuple[str, ...] = ()
    ) -> ClipRow:
        """With the middle frame (the later of two) as its image."""
        return cls(key, frames[len(frames) // 2], caption, notes, frames=tuple(frames))


def printable(name: str) -> str:
    """`name` with everything that cannot be shown or encoded (controls, bad UTF-8) escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in name
    )


class BadRow(InputError):
    """A row that cannot be used: its `name`, the `reason` (a clause), and the `detail` behind it.

    Rows that fail alike have the same reason, so that reasons can be counted; what differs from row
    to row (sizes, line numbers) stands in the detail.
    """

    def __init__(self, name: str, reason: str, detail: str = ""):
        self.name, self.reason, self.detail = printable(name), reason, printable(detail)
        more = f" ({self.detail})" if self.detail else ""
        super().__init__(f"{self.name}: {reason}{more}")

    def __reduce__(self) -> tuple[type[BadRow], tuple[str, str, str]]:
        return type(self), (self.name, self.reason, self.detail)


class PictureSource(ABC):
    """Captioned pictures by index, in an order that is the same on every machine.

    A source can be pickled, so that worker processes can each have one. One object serves one
    thread at a time.
    """

    problems: tuple[BadRow, ...] = ()
    """What was already wrong when the rows were listed; these rows have no index."""
    side: int | None = None
    """Height and width of every picture, where the source knows them to be squares of one size."""
    frames: int = 1
    """Frames of every row: more than one where rows are clips."""
    asks: bool = False
    """Whether rows have questions."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of candidate rows; each can still turn out to be bad when it is read."""

    @abstractmethod
    def read(self, index: int) -> Row:
        """Row `index` (0 to len - 1).

        Raises:
            BadRow: the picture or its caption cannot be used.
            IndexError: there is no such row.
        """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Plain JSON that says what the rows are: kind, place, `rows`, `sha256` of the listing."""

    @property
    def total(self) -> int:
        """All rows that were meant to be there: the candidates and the problems of the listing."""
        return len(self) + len(self.problems)

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return index

    def __iter__(self) -> Iterator[Row]:
        """Rows in order; stops at the first bad one (see `arra.data.report.good_rows`)."""
        return (self.read(index) for index in range(len(self)))
