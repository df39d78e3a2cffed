"""Which tests belong to the daily run: decided by measured time, in tests/tiers.txt.

A line is "slow NODE" (left to `-m slow`) or "run NODE" (in the daily run although it takes long,
because no shorter test stands for it). Every other test is a unit test, and fails if it takes
longer than `LIMIT`. After a change, measure and write the file anew:

    python -m pytest -m "not gpu and not network" --times times.tsv
    python -m tests.tiers times.tsv
"""

import collections
import re
import sys
from pathlib import Path

LIMIT = 3.0  # seconds of a unit test
SHORT = 0.3  # seconds up to which all cases of a test belong to the daily run
LONGEST = 20.0  # seconds of a whole run in the daily run
BUDGET = 30.0  # seconds of all that is in the daily run although it takes over `SHORT`
# Recorded models of nine families, loaded by their files alone: always in the daily run.
FAMILIES = """
    timm_vit timm_dino timm_dinov3_plus timm_bit tv_swin hf_resnet_basic google_vit
    transformers_siglip transformers_siglip2_naflex
"""
DAILY = {
    f"tests/zoo/test_load_backbone.py::test_weights_alone_are_enough[{name}]"
    for name in FAMILIES.split()
}
FILE = Path(__file__).parent / "tiers.txt"


def read() -> dict[str, str]:
    """Return {node: "slow" or "run"}."""
    lines = FILE.read_text().splitlines() if FILE.exists() else []
    return {node: tier for tier, _, node in (line.partition(" ") for line in lines)}


def function_of(node: str) -> str:
    """Return a node without its case."""
    return re.sub(r"\[.*", "", node)


def sort(times: dict[str, float]) -> dict[str, str]:
    """Return the tier of every test that takes long.

    Of each test function with no case under `SHORT`, the quickest case stays in the daily run, as
    far as the budget goes; the quickest functions first.

    Args:
        times: seconds by node.
    """
    daily = DAILY & set(times)
    times = {node: seconds for node, seconds in times.items() if node not in daily}
    tiers = {node: "slow" for node, seconds in times.items() if seconds > SHORT}
    functions = collections.defaultdict(list)
    for node, seconds in times.items():
        functions[function_of(node)].append((seconds, node))
    left = BUDGET
    for seconds, node in sorted(min(cases) for cases in functions.values()):
        if node in tiers and seconds <= min(LONGEST, left):
            del tiers[node]
            left -= seconds
    # The first of a function's cases pays for what all of them share, whichever comes first.
    for function in {function_of(node) for node, seconds in times.items() if seconds > SHORT}:
        tiers |= {node: "run" for _, node in functions[function] if node not in tiers}
    return tiers | dict.fromkeys(daily, "run")


def main(path: str) -> None:
    """Write tests/tiers.txt from a file of times; tests that it lacks keep their tier."""
    times = {}
    for line in Path(path).read_text().splitlines():
        node, seconds = line.split("\t")
        times[node] = max(float(seconds), times.get(node, 0.0))
    tiers = {node: tier for node, tier in read().items() if node not in times} | sort(times)
    FILE.write_text("".join(f"{tier} {node}\n" for node, tier in sorted(tiers.items())))


if __name__ == "__main__":
    main(sys.argv[1])
