"""The shapes of public data sets: their columns, and the function that turns them into rows.

A shape fits a row if the row has all its columns and their values have the right types. The first shape that fits is
used, so a shape with more columns comes before one with fewer. `a|b` are names for the same column, in order of
preference. The function gets the values of `prompt` and `answers` in order, and those of `may`, which a row may lack,
by name. Columns that belong to the prompt of any shape (`system`, `history`, `tools`) are added by `recognise`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from data.shapes import chats, instructions, rankings

# what the function of a shape returns
RANKING = "ranking"  # {prompt, completions, ranks}, best 0
RATED = "rated"  # {prompt, completion, rating}: consecutive rows with the same prompt become a ranking
DEMONSTRATION = "demonstration"  # {prompt, completion}
CHAT = "chat"  # {messages}
PROMPT = "prompt"  # {prompt}
TEXT = "text"  # {text}
TREE = "tree"  # consecutive rows with the same `group` column become a tree of messages
RANKINGS = "rankings"  # for each point of a tree where replies follow: {prompt, completions, ranks}

# the kinds of rows that each of them can become
KINDS = {
    RANKING: ("comparisons", "demonstrations", "prompts"),
    RANKINGS: ("comparisons", "demonstrations", "prompts"),
    TREE: ("comparisons", "demonstrations", "prompts"),
    RATED: ("comparisons", "demonstrations", "prompts"),
    DEMONSTRATION: ("demonstrations", "prompts"),
    CHAT: ("text", "demonstrations", "prompts"),
    PROMPT: ("prompts",),
    TEXT: ("text",),
}


@dataclass(frozen=True)
class Shape:
    """A set of columns, and what they become."""

    name: str
    gives: str
    prompt: str  # required columns of the prompt
    answers: str  # required columns of the answers and of their order
    rows: Callable[..., Any]
    may: str = ""  # optional columns that the function takes
    ignores: str = ""  # columns that look like the prompt but repeat it, as the card says
    first: bool = False  # tried before chats, which would lose the answers of demonstrations
    not_ranked: str = ""  # why rows that look like comparisons can't be ranked
    examples: str = ""  # ids on the hub


QUESTION = "instruction|question|query|problem"
CHOSEN, REJECTED = "chosen|chosen_response|response_chosen", "rejected|rejected_response|response_rejected"

# fmt: off
SHAPES = (
    # rankings of K answers
    Shape("a ranking", RANKING, "prompt", "completions ranks", rankings.own, "ended",
          examples="this project's own columns"),
    Shape("Nectar", RANKING, "prompt|question", "answers", rankings.listed("answer", rank="rank"),
          examples="berkeley-nest/Nectar"),
    Shape("UltraFeedback", RANKING, "instruction|prompt", "completions",
          rankings.listed("response", score="overall_score"),
          examples="openbmb/UltraFeedback"),
    Shape("Stack Exchange preferences", RANKING, "question", "answers", rankings.listed("text", score="pm_score"),
          examples="HuggingFaceH4/stack-exchange-preferences"),
    Shape("sampled answers with scores", RANKING, "prompt|instruction|input",
          "generations|all_generated_responses ratings|rating|all_rm_scores",
          rankings.scored, ignores="labelling_prompt generation_prompt messages",
          examples="argilla/distilabel-intel-orca-dpo-pairs, princeton-nlp/llama3-ultrafeedback"),
    Shape("sampled answers with ranks", RANKING, f"prompt|{QUESTION}", "candidates_completions|completions ranks",
          rankings.ranked,
          examples="argilla/OpenHermesPreferences"),
    Shape("Alpaca with several outputs", RANKING, "instruction", "output", instructions.outputs, "input context",
          examples="Chinese OpenAssistant rankings; outputs best first"),
    Shape("trees", RANKINGS, "prompt", "message_tree_id", chats.tree, examples="OpenAssistant/oasst1 (trees)"),
    Shape("messages of trees", TREE, "message_id text role", "message_tree_id", chats.tree_of_messages,
          "parent_id rank deleted", examples="OpenAssistant/oasst1, OpenAssistant/oasst2"),

    # two answers and which one is better
    Shape("WebGPT", RANKING, "question", "answer_0 answer_1 score_0 score_1", rankings.by_scores,
          examples="openai/webgpt_comparisons"),
    Shape("AlpacaFarm", RANKING, "instruction", "output_1 output_2 preference", rankings.by_preference, "input context",
          examples="tatsu-lab/alpaca_farm"),
    Shape("SafeRLHF", RANKING, "prompt", "response_0 response_1 better_response_id", rankings.by_number,
          examples="PKU-Alignment/PKU-SafeRLHF"),
    Shape("HelpSteer preference", RANKING, "context|prompt",
          "response1|response_1 response2|response_2 overall_preference|preference_strength",
          rankings.by_strength, examples="nvidia/HelpSteer3, nvidia/HelpSteer2 (preference)"),
    Shape("summarize from feedback", RANKING, "info", "summaries choice", rankings.summaries,
          examples="openai/summarize_from_feedback (comparisons)"),
    Shape("SHP", RANKING, "history", "human_ref_A human_ref_B labels", rankings.by_label,
          examples="stanfordnlp/SHP"),
    Shape("Chatbot Arena", RANKING, "", "conversation_a conversation_b winner", rankings.arena, "turn",
          ignores="full_conversation",
          examples="lmsys/chatbot_arena_conversations, lmsys/mt_bench_human_judgments, "
                   "lmarena-ai/arena-human-preference-140k"),
    Shape("Chatbot Arena, texts", RANKING, "prompt", "response_a response_b winner_model_a winner_model_b",
          rankings.arena_texts,
          "winner_tie", examples="lmarena-ai/arena-human-preference-55k"),
    Shape("Stack Exchange pairs", RANKING, "question", "response_j response_k", rankings.pair,
          examples="lvwerra/stack-exchange-paired"),

    # a chosen and a rejected answer
    Shape("two conversations", RANKING, "", f"{CHOSEN} {REJECTED}", rankings.conversations,
          ignores="conversation generation_prompt labelling_prompt init_prompt critic_prompt revision_prompt",
          examples="Anthropic/hh-rlhf, Skywork/Skywork-Reward-Preference-80K-v0.2, "
                   "HuggingFaceH4/ultrafeedback_binarized"),
    Shape("a chat and a pair", RANKING, "conversations|trajectory|messages|context", f"{CHOSEN} {REJECTED}",
          rankings.pair, first=True,
          examples="hiyouga/DPO-En-Zh-20k (LLaMA-Factory), openbmb/UltraInteract_pair"),
    Shape("a pair", RANKING, "prompt", f"{CHOSEN} {REJECTED}", rankings.own_pair,
          examples="TRL, Dahoas/full-hh-rlhf, allenai/reward-bench-2, jondurbin/truthy-dpo-v0.1"),
    Shape("a question and a pair", RANKING, QUESTION, f"{CHOSEN} {REJECTED}", rankings.pair, "input",
          examples="Intel/orca_dpo_pairs, argilla/ultrafeedback-binarized-preferences"),
    Shape("an input and a pair", RANKING, "input", f"{CHOSEN} {REJECTED}", rankings.pair,
          examples="argilla/distilabel-intel-orca-dpo-pairs"),

    # an answer and its rating
    Shape("KTO", RATED, "prompt", "completion label", rankings.labelled, examples="trl-lib/kto-mix-14k"),
    Shape("KTO chats", RATED, "messages|conversations", "label|kto_tag", chats.labelled, examples="LLaMA-Factory"),
    Shape("HelpSteer", RATED, "prompt", "response helpfulness", rankings.rated,
          examples="nvidia/HelpSteer, nvidia/HelpSteer2"),
    Shape("graded solutions", RATED, "question|problem", "generated_solution is_correct", rankings.graded,
          examples="nvidia/OpenMathInstruct-1"),
    Shape("summaries with ratings", RATED, "info", "summary", rankings.summary,
          examples="openai/summarize_from_feedback (axis)"),
    Shape("BeaverTails", RATED, "prompt", "response is_safe", rankings.labelled,
          not_ranked="is_safe says whether an answer is harmful, not which of two answers is better",
          examples="PKU-Alignment/BeaverTails"),

    # chats
    Shape("messages", CHAT, "messages|conversations|conversation", "", chats.chat, ignores="generation_prompt",
          examples="HuggingFaceH4/ultrachat_200k, HuggingFaceH4/no_robots, teknium/OpenHermes-2.5 (ShareGPT)"),
    Shape("alternating texts", CHAT, "conversations|data", "", chats.alternating,
          examples="GAIR/lima, stingning/ultrachat"),
    Shape("Glaive", CHAT, "system chat", "", chats.glaive, examples="glaiveai/glaive-function-calling-v2"),

    # a prompt and its completion
    Shape("a demonstration", DEMONSTRATION, "prompt", "completion", instructions.own,
          examples="this project's and TRL's columns"),
    Shape("Self-Instruct", DEMONSTRATION, "instruction", "instances", instructions.instances,
          examples="yizhongw/self-instruct"),
    Shape("Alpaca", DEMONSTRATION, "instruction", "output|response|completion|answer|generation",
          instructions.instruction, "input context",
          examples="tatsu-lab/alpaca, databricks/databricks-dolly-15k, garage-bAInd/Open-Platypus"),
    Shape("Natural Instructions", DEMONSTRATION, "definition inputs", "targets", instructions.defined,
          examples="Muennighoff/natural-instructions"),
    Shape("calls of tools", DEMONSTRATION, "query tools", "answers", chats.calls,
          examples="Salesforce/xlam-function-calling-60k"),
    Shape("a question and an answer", DEMONSTRATION, "question|query|problem|inputs_pretokenized|inputs",
          "solution|generated_solution|response|answer|output|completion|targets_pretokenized|targets",
          instructions.answer,
          ignores="original_question",
          examples="Open-Orca/OpenOrca, meta-math/MetaMathQA, openai/gsm8k, CohereLabs/aya_dataset"),
    Shape("an input and an output", DEMONSTRATION, "input", "output|target|response", instructions.answer,
          examples="YeungNLP/firefly-train-1.1M"),
    Shape("a prompt and a response", DEMONSTRATION, "prompt", "response", instructions.answer,
          examples="Dahoas/rm-static"),
    Shape("two roles", DEMONSTRATION, "message_1", "message_2", instructions.answer, examples="camel-ai/physics"),

    # prompts and text
    Shape("a prompt", PROMPT, "prompt", "", instructions.prompt,
          examples="TRL, BytedTsinghua-SIA/DAPO-Math-17k (verl)"),
    Shape("an instruction", PROMPT, "instruction", "", instructions.question, "input context",
          examples="tatsu-lab/alpaca_eval"),
    Shape("a question", PROMPT, "question|query|problem|inputs_pretokenized|inputs", "", instructions.question,
          examples="HuggingFaceH4/MATH-500"),
    Shape("text", TEXT, "text", "", instructions.plain, examples="allenai/c4, Salesforce/wikitext"),
    Shape("a transcript", CHAT, "text", "", chats.guanaco, examples="timdettmers/openassistant-guanaco"),
)
# fmt: on

# only if a source has common_prefix: true
COMMON_PREFIX = Shape("two texts that begin alike", RANKING, "", "chosen rejected", rankings.common_prefix)
