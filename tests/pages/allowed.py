"""Numbers in the pages that no program measures: options, limits, definitions, and what papers report."""

# page and heading of a table: what its numbers are
TABLES = {
    ("correctness.md", "Checks before the first step"): "tolerances of rlhf/run/sanity.py",
    ("data-sets.md", "Instructions and chats: demonstrations"): "names of data sets",
    ("from-trl.md", "Fields of PPOConfig"): "defaults of options",
    ("lora.md", "Options of `sft`, `reward` and `ppo`"): "defaults of options",
    ("memory.md", "How much memory does a stage need?"): "a constant of rlhf/run/memory.py",
    ("metrics.md", "What do the metrics of PPO mean?"): "healthy ranges, rules of thumb",
    ("resume.md", "Checkpoints"): "defaults of options",
    ("speed.md", "What is compared"): "sizes of the benchmark's inputs",
    ("task.md", "Options"): "defaults of options",
    ("taste.md", "Options of comparisons"): "defaults of options",
}
# page: words of a sentence with a number, without code
PROSE = {
    "correctness.md": (
        "is below 0.01 nats per response",  # criteria of tests
        "more than 99 % of the objective's possible gain",
        "a cosine above .99, and the same norm to 5 %",
    ),
    "estimators.md": ("The default of 0.2",),
    "evaluate.md": (
        "wins by length alone has 0.5",  # definitions of metrics
        "0.5 is a tie",
        "with mean preference 0.5",
        "0.0 for greedy decoding",
        "Score = 0.3 ×",
        "+ 0.3 × (the same of ref rows)",
        "+ 0.2 × (share of questions",
        "+ 0.2 × (share with",
        "+ 0.01 × mean of tanh",
    ),
    "from-trl.md": ("TRL removed PPO in 1.13.",),
    "gpu.md": ("The targets are 10 and 3 times TRL's speed",),
    "large-data.md": ("is trained on at most 50 MB",),
    "memory.md": ("16 times the hidden size", "(128 MiB each)"),
    "mutation.md": ("fewer than 95 % are killed",),
    "optimisations.md": ("less than 3 % of time or memory",),
    "papers.md": ("the paper's 27.8",),
    "papers.zh.md": ("论文的 27.8",),
    "ranking.md": ("InstructGPT reports 73 %", "at most 64 kB"),
    "report.md": ("about 3 MB",),
    "resume.md": ("(100 nats per response)", "(0.001 nats per token)"),
    "smollm2.md": ("(538 MB, the tied embedding once)", "If its interval includes 0.5"),
    "task.md": ("The paper's dropout of 0.1", "λ = 0.5 with 0"),
    "taste.md": ("an accuracy is below 0.8", "with 0.5 half as much", "reaches down to chance, 0.5"),
}
# pages whose sentences another test computes: tests/stages/experiments/test_page.py
OTHER_TEST = ("experiments.md", "reward-model-experiments.md", "paper-experiments.md")
