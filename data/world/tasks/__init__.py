"""The tasks of the world by name. Sampled requests depend on the order of the tasks."""

from data.world.tasks.base import Task
from data.world.tasks.fact import Fact
from data.world.tasks.harm import Harm
from data.world.tasks.list import List
from data.world.tasks.note import Note
from data.world.tasks.story import Story
from data.world.tasks.sum import Sum

TASKS: dict[str, Task] = {
    "story": Story(),
    "fact": Fact(),
    "sum": Sum(),
    "list": List(),
    "note": Note(),
    "harm": Harm(),
}
