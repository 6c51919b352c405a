"""Where a run keeps token ids: in the folder .tokens, found again by later starts and by other stages."""

from hashlib import sha256
from pathlib import Path

from rlhf.tokens import TokenFiles
from stages.common.code import modules_hash
from stages.common.console import ProgressBar, say
from stages.common.stage import Stage

FOLDER = ".tokens"
# the modules that turn rows into token ids: after an edit of one of them token ids are made again
CODE = (
    "rlhf.rows.checks",
    "rlhf.rows.messages",
    "rlhf.tokens.chats",
    "rlhf.tokens.control_tokens",
    "rlhf.tokens.datasets",
    "rlhf.tokens.encoding",
    "rlhf.tokens.ids",
    "rlhf.tokens.labels",
    "rlhf.tokens.replies",
)


def token_files(stage: Stage, path: Path) -> TokenFiles:
    """The place of the token ids of the rows in a file: the run, or its base if they are there."""
    key = sha256(f"{stage.run.hash(str(path))} {modules_hash(CODE)}".encode()).hexdigest()
    return TokenFiles([folder / FOLDER for folder in stage.run.folders], key, Progress())


class Progress:
    """A progress bar, if there is more than one part."""

    bar: ProgressBar

    def __call__(self, done: int, total: int) -> None:
        if total == 1:
            return
        if done == 0:
            say("tokenises the rows")
            self.bar = ProgressBar(total)
        else:
            self.bar.update()
        if done == total:
            self.bar.close()
