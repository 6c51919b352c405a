"""A conversation with the models of a run, in the terminal or in a browser.

Answers are printed while they are sampled. The first answer is the one that `make samples` gives with the same seed.

    make chat
    make chat MODEL=sft ARGS="--temperature 0.7"
    echo "What is 2 + 3?" | make chat
    make chat WEB=1
"""

import signal
from contextlib import closing
from pathlib import Path

from rlhf import InputError
from rlhf.escape import display_width, pad_right, printable
from rlhf.option import check_option, did_you_mean
from rlhf.rows import to_line
from stages.common.answer_options import ChatOptions
from stages.common.answers import Answerer, load_answerers
from stages.common.console import INDENT, ask, is_terminal, print_lines, say, write
from stages.common.conversation import CHAT, Conversation, Reply, Turn
from stages.common.export import export
from stages.common.interruption import foreground, interruption, stoppable
from stages.common.parsing import parse_given
from stages.common.stage import Stage, main

# name of a command -> its argument, and what it does
COMMANDS = {
    "model": ("NAME", "another model answers: one of those loaded, a stage, a folder or a hub id"),
    "compare": ("[TEXT]", "all loaded models answer the text, or the last message again"),
    "retry": ("", "another answer to the last message, with the next seed"),
    "temperature": ("NUMBER", "sampling temperature; 0: greedy"),
    "seed": ("NUMBER", "seed of the answers; the same seed gives the same answer to the same turns"),
    "history": ("on|off", "whether the model sees earlier turns"),
    "system": ("[TEXT]", "system message, before the first turn; without text, none"),
    "new": ("", "a new conversation"),
    "save": ("FILE", "appends the turns to a JSON Lines file, as demonstrations"),
    "help": ("", "this list"),
    "quit": ("", "leaves, as Ctrl-D does"),
}


def work(options: ChatOptions, stage: Stage) -> None:
    """Talks until the input ends, serves the page until Ctrl-C, or exports a model."""
    template = options.template or parse_given("samples", [f"--recipe={options.recipe}"]).options.template or CHAT
    history = template == CHAT if options.history is None else options.history
    conversation = Conversation(template, history, options.system)
    models = load_answerers(options.models, stage)
    if options.export:
        export(models[-1], conversation, Path(options.export), stage.run)
        return
    if options.web:
        from stages.web.chat import serve  # the terminal does without the packages of the extra `web`

        serve(options, stage.run.folder, models, conversation)
        return
    with foreground():
        Chat(options, stage, models, conversation).run()


class Chat:
    """A conversation on the terminal: its turns, and the settings that commands change."""

    def __init__(self, options: ChatOptions, stage: Stage, models: list[Answerer], conversation: Conversation):
        self.options, self.stage, self.models, self.conversation = options, stage, models, conversation
        self.model = models[-1]
        self.temperature, self.seed = options.temperature, options.seed
        self.said_left_out = False

    def run(self) -> None:
        """Reads messages and commands until the input ends. Ctrl-C stops an answer, or what is being typed."""
        others = [model.name for model in self.models if model is not self.model]
        say(f"{self.model.name} answers{'; also loaded: ' + ', '.join(others) if others else ''}", "chat")
        if not self.conversation.history:
            say("the model sees only the last message; /history on shows it earlier turns too")
        say("/help lists the commands; Ctrl-C stops an answer; Ctrl-D leaves")
        going_on = True
        while going_on:
            try:
                line = ask("> ")
                going_on = line is not None and self.respond(line.strip())
            except InputError as error:
                say(str(error))
            except KeyboardInterrupt as error:
                if not is_terminal() or getattr(error, "signal", None) == signal.SIGTERM:
                    raise
                interruption.raised = None
                print_lines("", f"{INDENT}/quit or Ctrl-D leaves")

    def respond(self, line: str) -> bool:
        """Carries out a command, or answers a message. False after /quit."""
        if not line.startswith("/"):
            if line:
                self.say_and_answer(line, [self.model])
            return True
        name, _, argument = line[1:].partition(" ")
        if name not in COMMANDS:
            known = ", ".join(f"/{command}" for command in COMMANDS)
            raise InputError(f"no command /{name}{did_you_mean(name, COMMANDS)}; there are {known}")
        getattr(self, f"do_{name}")(argument.strip())
        return name != "quit"

    # --- answers ------------------------------------------------------------------------------------------------------

    def say_and_answer(self, message: str, models: list[Answerer]) -> None:
        """Adds a turn and answers it. The turn is removed again if it can't be answered."""
        self.conversation.turns.append(Turn(message))
        try:
            self.answer(models)
        except BaseException:
            self.conversation.turns.pop()
            raise

    def answer(self, models: list[Answerer]) -> None:
        """Prints an answer of each model to the last turn; that of the model in use is kept as the turn's answer."""
        width = max(display_width(printable(model.name)) for model in models) + 2
        for model in models:
            prompt, ids, left_out = self.conversation.prompt_for(model, self.options.response_length)
            if left_out and not self.said_left_out:
                self.said_left_out = True
                say(f"the context of {model.name} is full: from now on the oldest turns are left out")
            reply = Reply(model, ids, self.options.response_length, self.temperature, self.seed)
            stopped = show(reply, width)
            if model is self.model:
                turn = self.conversation.turns[-1]
                turn.answer, turn.finished, turn.prompt = reply.text, reply.finished, prompt
            if stopped:
                return

    # --- commands -----------------------------------------------------------------------------------------------------

    def do_model(self, name: str) -> None:
        if name:
            known = next((model for model in self.models if model.name == name), None)
            if known is None:
                known = load_answerers([name], self.stage)[0]
                self.models.append(known)
            self.model = known
        say(f"{self.model.name} answers; loaded: {', '.join(model.name for model in self.models)}")

    def do_compare(self, text: str) -> None:
        if text:
            self.say_and_answer(text, self.models)
        else:
            self.check_asked()
            self.answer(self.models)

    def do_retry(self, argument: str) -> None:
        self.check_asked()
        check_option(ChatOptions, "seed", self.seed + 1)
        self.seed += 1
        say(f"seed {self.seed}")
        self.answer([self.model])

    def do_temperature(self, text: str) -> None:
        self.temperature = number(text, float, "temperature")
        say(f"temperature {self.temperature:g}")

    def do_seed(self, text: str) -> None:
        self.seed = int(number(text, int, "seed"))
        say(f"seed {self.seed}")

    def do_history(self, word: str) -> None:
        if word not in ("on", "off"):
            raise InputError("/history on or /history off")
        self.conversation.history = word == "on"
        say(f"the model sees {'earlier turns too' if self.conversation.history else 'only the last message'}")

    def do_system(self, text: str) -> None:
        self.conversation.system = text
        say(f"system message: {text}" if text else "no system message")

    def do_new(self, argument: str) -> None:
        self.conversation.turns.clear()
        self.said_left_out = False
        say("a new conversation")

    def do_save(self, file: str) -> None:
        rows = self.conversation.demonstrations()
        if not file or not rows:
            raise InputError("there is no finished answer to save" if file else "/save FILE: name a file")
        try:
            with open(file, "a", encoding="utf-8") as lines:
                lines.writelines(map(to_line, rows))
        except (OSError, ValueError) as error:
            raise InputError(f"not saved: {error}") from error
        say(f"{len(rows)} row{'s' * (len(rows) > 1)} appended to {file}")

    def do_help(self, argument: str) -> None:
        for name, (what, text) in COMMANDS.items():
            print_lines(f"  {f'/{name} {what}':<22}{text}")

    def do_quit(self, argument: str) -> None:
        pass

    def check_asked(self) -> None:
        """Raises InputError if there is no message to answer again."""
        if not self.conversation.turns:
            raise InputError("there is no message yet")


def show(reply: Reply, width: int) -> bool:
    """Prints an answer while it is sampled; True if Ctrl-C stopped it. Its text can't look like another line."""
    begun = False
    with stoppable() as stopped, closing(iter(reply)) as pieces:
        write(pad_right(f"{printable(reply.model.name)}: ", width), "")
        for piece in pieces:
            shown = piece if begun else piece.lstrip()
            write(shown, " " * width)
            begun = begun or bool(shown)
            if stopped():
                break
        print_lines(" (stopped)" if stopped() else "" if reply.finished else " ...")
        return stopped()


def number(text: str, kind: type[int] | type[float], option: str) -> float:
    """The number that a text holds. Raises InputError, with the range, if the option can't have this value."""
    try:
        value = kind(text)
    except ValueError:
        check_option(ChatOptions, option, text)
        raise
    check_option(ChatOptions, option, value)
    return value


if __name__ == "__main__":
    main("chat", work)
