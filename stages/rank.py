"""Rank: a page on which people order the answers of models. It is not a stage: it uses what has been made.

The rankings are written to <run>/rankings; with several models, whose answers are compared, to <run>/preferences.

    make rank MODEL=sft COUNT=60 K=4
    make rank MODEL="sft ppo"
    make rank ARGS="--comparisons labels.jsonl"
"""

import hashlib
import json
import signal
import threading
from pathlib import Path
from shlex import quote

from data.rankings import FOLDER, plural, read_decisions, usable
from stages.common.answer_options import RankOptions
from stages.common.console import print_lines, say
from stages.common.interruption import STOPPED, Interrupted
from stages.common.options import CHAIN, PEOPLE, StageOptions
from stages.common.parsing import parse_given
from stages.common.request import command
from stages.common.run import INPUT, settings_of
from stages.common.stage import Stage, main
from stages.web.app import create_app
from stages.web.items import Pool, Source, from_file, from_models
from stages.web.serving import Server
from stages.web.store import Desk, Store
from stages.web.summary import agreement_of, export, in_words, win_rate_of

PREFERENCES = "preferences"
SHOWS_ERROR = 2.5  # seconds for which the page is still there after an error of sampling


def work(options: RankOptions, stage: Stage) -> None:
    """Serves the page until Ctrl-C; then writes what people ranked for training, and prints what it says."""
    several = len(options.models) > 1 and not options.comparisons
    folder = Path(options.output or stage.run.folder / (PREFERENCES if several else FOLDER))
    source = source_of(options, stage, several)
    pool = Pool(folder, key_of(options, stage), options.count)
    store = Store(folder)
    server = Server(options.host, options.port, folder)
    title = "Compare answers" if several else "Rank answers"
    if store.decisions:
        say(f"goes on: {in_words(list(store.decisions.values()))}", "rank")
    say(f"{title.lower()}; each ranking is saved in {store.path}", "" if store.decisions else "rank")
    if several and "completions" in stage.parsed.given:
        say("each model gives one answer, whatever K is")
    server.announce(options.browser)
    say("Ctrl-C ends it")
    # the page asks again within a second, and then shows the error
    pool.start(source, lambda: threading.Timer(SHOWS_ERROR, server.stop).start())
    try:
        server.serve(create_app(Desk(pool, store, options.shared), title, several))
    finally:
        pool.stop()
        if server.signal == signal.SIGINT:
            print_lines("")  # the terminal has put ^C at the beginning of the line
        summarise(folder, store, pool, several)
        if not several and any(usable(store.decisions.values())):
            say_next(options, folder)
    if pool.error is not None:
        raise pool.error
    if server.signal == signal.SIGTERM:
        raise Interrupted(signal.SIGTERM, STOPPED)


def source_of(options: RankOptions, stage: Stage, several: bool) -> Source:
    """Where the items come from. Raises InputError if a file or a model is missing."""
    if options.comparisons:
        return from_file(stage.rows(options.comparisons, ""), options.count)
    for name in options.models:
        of_run = name in CHAIN or stage.run.path(f"{INPUT}{name}").is_dir()
        if of_run:
            stage.made(name, "model")
        else:
            stage.input(name)
    return from_models(options, stage, stage.rows(options.prompts, f"prompts{'_test' * several}.jsonl"))


def key_of(options: RankOptions, stage: Stage) -> str:
    """A hash of all that decides what the items are, but not how many: inputs, and options of sampling."""
    sampling = (options.models, options.completions, options.temperature, options.response_length, options.seed)
    decides = [stage.inputs, None if options.comparisons else sampling]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:8]


def summarise(folder: Path, store: Store, pool: Pool, several: bool) -> None:
    """Writes comparisons.jsonl and pairs.jsonl, and prints counts, agreement and win rate."""
    decisions = list(store.decisions.values())
    say(in_words(decisions), "rank")
    if not decisions:
        return
    decisions = read_decisions(store.path)
    current = [row for row in decisions if row["id"] in pool.by_id]
    if len({row["rater"] for row in current}) > 1 and (agreement := agreement_of(current)):
        say(f"people order {agreement} of the pairs that several of them ranked alike (95 % interval)")
    if several and (win_rate := win_rate_of(current)):
        first, last = current[0]["models"][0], current[0]["models"][-1]
        say(f"win rate of {last} over {first}: {win_rate}, a tie counts half (95 % interval over prompts)")
        if same := pool.nothing_to_rank():
            say(f"without {plural(same, 'prompt')} to which all models gave the same answer")
    rankings, pairs = export(folder, decisions)
    left_out = len(decisions) - rankings
    without = f", without {left_out:,} skipped, flagged or all-tied ones" if left_out else ""
    say(f"{folder}/comparisons.jsonl: {plural(rankings, 'ranking')} to train on{without}")
    say(f"beside it pairs.jsonl: the same as {plural(pairs, 'pair')}; {store.path.name}: all decisions")


def say_next(options: RankOptions, folder: Path) -> None:
    """Prints the commands that train a policy on the rankings in a folder."""
    place: StageOptions = options
    places = [f"--{name}={value}" for name in ("recipe", "base") if (value := getattr(options, name))]
    of_people = parse_given("comparisons", places).options.labeller == PEOPLE
    if of_people and folder == options.run_folder / FOLDER:
        say(f"`{command('ppo', options)}` trains on them")
        return
    if not of_people:
        base = str(options.run_folder) if settings_of(options.run_folder) else None
        place = StageOptions(recipe="mine", base=base)
    arguments = quote(f"--rankings {quote(str(folder))}")
    say(f"`{command('comparisons', place)} ARGS={arguments}`, then `{command('ppo', place)}` trains on them")


if __name__ == "__main__":
    main("rank", work)
