"""Progress bars on standard error for images and bytes, with the rate and the remaining time."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text


class _ImageRate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} images/s", style="progress.data.speed")


def image_progress(shown: bool) -> Progress:
    """Return a bar that counts images, hidden unless ``shown``."""
    return _progress(shown, MofNCompleteColumn(), _ImageRate())


def byte_progress(shown: bool) -> Progress:
    """Return a bar that counts bytes, hidden unless ``shown``."""
    return _progress(shown, DownloadColumn(), TransferSpeedColumn())


def _progress(shown: bool, *columns: ProgressColumn) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *columns,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
    )
