"""Tables of chains that were run with one seed: infills of real code, GSM8K, the samplers."""

from results_page.intervals import over_items, percent, signed
from results_page.tables import Chains, markdown, nfe, score

LAYOUTS = {
    "flexmdm": "FlexMDM, tuned",
    "llada": "LLaDA, tuned, 32 masks behind the prompt, blocks of 8",
    "llada_oracle": "LLaDA in place, true length given",
    "llada_fixed": "LLaDA in place, 12 masks",
}


def real_code(chains: Chains) -> str:
    """Infills of library code and of HumanEval."""
    metrics = ("pass@1", "exact_match", "parses")
    lines = []
    for data, shown in (("stdlib", "library lines"), ("humaneval", "HumanEval single-line")):
        for key, layout in LAYOUTS.items():
            found = chains["real_code"][0]["evaluations"][f"{data}_{key}"]
            cells = [
                percent(found["metrics"][metric]) if metric in found["metrics"] else ""
                for metric in metrics
            ]
            lines.append(
                f"| {shown}: {layout} | {found['rows']} | {' | '.join(cells)} |"
                f" {found['tokens'] / found['rows']:.1f} | {nfe([found]):.1f} |"
            )
    return markdown(
        "| | n | pass@1 % | exact match % | parses % | tokens written per row | evaluations |",
        lines,
    )


def gsm8k(chains: Chains) -> str:
    """GSM8K, and the bound on its answers."""
    chain, lines = chains["gsm8k"][0], []
    for kind, name in (("flexmdm", "FlexMDM"), ("llada", "LLaDA")):
        found, bound = chain["evaluations"][kind], chain["training"][kind]["bound"]
        lines.append(
            f"| {name} | {bound['nats_per_token']:.3f} +- {bound['nats_per_token_error']:.3f} |"
            f" {found['rows']} | {percent(score(found))} |"
            f" {percent(found['metrics']['answer_found'])} | {nfe([found]):.1f} |"
        )
    return markdown(
        "| | NLL upper bound (nats/answer token) | test problems | right % | an answer found %"
        " | evaluations |",
        lines,
    )


def samplers(chains: Chains) -> str:
    """Each sampler's accuracy and cost, on the same items."""
    found = chains["samplers"][0]["evaluations"]
    exact, lines = found["event_driven"], []
    for each in sorted(
        found.values(),
        key=lambda each: (
            "event" in each["sampler"],
            "left out" in each["sampler"] or "skipped" in each["sampler"],  # the older words, too
            nfe([each]),
        ),
    ):
        share = score(each)
        difference = (
            ""
            if each is exact or each["items_hash"] != exact["items_hash"]
            else signed(over_items([(exact["right"], each["right"])]))
        )
        lines.append(
            f"| {each['sampler']} | {share['n']} x {each['rows'] // share['n']} | {percent(share)}"
            f" | {nfe([each]):.1f} | {each['seconds'] / each['rows']:.2f} | {difference} |"
        )
    return markdown(
        "| FlexMDM sampler | items x answers | pass@1 % | NFE per sample | seconds per row |"
        " event-driven minus this, points, paired |",
        lines,
    )
