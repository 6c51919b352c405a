"""The few numbers at the top of the report."""

from stages.reporting.content import is_number, number
from stages.reporting.files import RunFiles
from stages.reporting.reward_model import accuracy, pairs_of

Card = tuple[str, str, str]  # what, its value, what it means


def headline(files: RunFiles) -> list[Card]:
    """Cards with what matters most; those whose numbers are unknown are left out."""
    metrics = files.metrics or {}
    sft, policy = metrics.get("sft", {}), metrics.get("ppo", {})
    cards: list[Card] = []
    if is_number(policy.get("win_rate")):
        interval = (
            f"95\u00a0% interval {_percent(policy.get('win_rate_low'))} to {_percent(policy.get('win_rate_high'))}"
        )
        cards.append(("PPO wins against SFT", _percent(policy["win_rate"]), interval))
    for name, title, note in (
        ("gold", "Gold, SFT → PPO", "true quality of sampled answers"),
        ("perplexity", "Perplexity, SFT → PPO", "held-out text; lower is better"),
    ):
        if is_number(sft.get(name)) and is_number(policy.get(name)):
            cards.append((title, f"{number(float(sft[name]))} → {number(float(policy[name]))}", note))
    if is_number(policy.get("kl")):
        low, high = (number(policy.get(f"kl_{end}")) for end in ("low", "high"))
        cards.append(("KL to SFT", number(float(policy["kl"])), f"nats a response, 95\u00a0% interval {low} to {high}"))
    pairs = pairs_of(files.rankings or [])
    if measured := accuracy(pairs):
        note = f"on {measured[1]:,} held-out pairs; 50\u00a0% is chance"
        cards.append(("Reward model agrees with the labeller", _percent(measured[0].value), note))
    return cards


def subtitle(files: RunFiles) -> str:
    """The recipe, the seed and the day of a run."""
    records = list(files.records.values())
    if not records:
        return "nothing has been made yet"
    options = records[-1]["options"]
    seed = options.get("run_seed") if options.get("run_seed") is not None else options.get("seed", 0)
    day = max(str(record.get("finished", ""))[:10] for record in records)
    recipe = str(options.get("recipe", "")).rpartition("/")[2]
    return f"recipe {recipe} · seed {seed} · {day}"


def _percent(value: object) -> str:
    return f"{100 * value:.0f}\u00a0%" if isinstance(value, int | float) else "–"
