"""The claim: search and adaptation make drafts of tri-grams better, and the output stays the same.

Documents in one language, each with habits of its own, are completed greedily by a small language
model. A pass judges at most 16 guesses: of the likeliest chain, of a tree found by search, or of
one from a table that adapts. What is compared is how many letters a pass gives.
"""

from __future__ import annotations

import math

from arra.files import to_plain
from arra.systems.aded.arms import compare
from arra.systems.aded.recipe import (
    ADAPTED,
    ADAPTED_CHAIN,
    CHAIN,
    KEPT,
    PLAIN,
    RECIPES,
    RELEASED,
    RENORMALISED,
    SEARCH,
    Recipe,
)
from arra.systems.base import ClaimRun
from arra.systems.results import Better, ClaimResult, Measure, Verdict
from arra.systems.seeds import (
    Reading,
    Result,
    at,
    beside,
    estimate,
    logarithm,
    measure,
    paired,
    run_arms,
)

ALL = "all"
"""All arms share a model, and so are one job."""
ADAPTS, SEARCHES = 1.15, 1.05
"""How many times as many letters a pass must give: adapted against searched, searched against the
chain."""
LEARNT = 0.55
"""Share of letters that the model must foretell: who knows the language alone foretells 0.4."""
FORETOLD = at("foretold")
DRAFTED = (CHAIN, SEARCH, ADAPTED, ADAPTED_CHAIN, RELEASED, RENORMALISED, KEPT)


def letters(arm: str) -> Reading:
    """Letters that a pass of the model gives, the one included that nobody guessed."""
    return at(arm, "units per pass")


def claim(run: ClaimRun) -> ClaimResult:
    """Train a model and complete documents in all ways, for all seeds."""
    recipe = RECIPES[run.budget]()
    results = run_arms(compare, [ALL], run, recipe=recipe)[ALL]
    verdict, statement = judged(results)
    return ClaimResult(
        verdict=verdict,
        statement=statement,
        measures=tuple(measures(results)),
        scale=scale(recipe, results),
        settings=to_plain({"recipe": recipe}),
    )


def judged(results: list[Result]) -> tuple[Verdict, str]:
    """Of paired ratios of letters a pass. Fail: a document came out otherwise than without drafts,
    or adaptation gives no more than the fixed table in the whole 95 % interval. Pass: adapted
    against searched 1.15 or more and searched against the chain 1.05 or more, both above 1 in the
    whole interval. Otherwise, or where a model did not learn that documents have habits (it
    foretells less than 0.55 of the letters), the experiment could not tell."""
    if any(result[arm]["identical"] < 1.0 for result in results for arm in DRAFTED):
        return "fail", "A draft changed a document."
    if len(results) < 2:
        return "inconclusive", "One seed shows no spread, so nothing can be said."
    adapts, searches = (
        paired(logarithm(letters(one)), results, _other(results, one, other)).interval
        for one, other in ((ADAPTED, SEARCH), (SEARCH, CHAIN))
    )
    said = (
        f"Letters a pass: adapted / searched {math.exp(adapts.value):.3f} "
        f"[{math.exp(adapts.low):.3f}, {math.exp(adapts.high):.3f}], searched / chain "
        f"{math.exp(searches.value):.3f} [{math.exp(searches.low):.3f}, "
        f"{math.exp(searches.high):.3f}]; all documents as without drafts."
    )
    if min(map(FORETOLD, results)) < LEARNT:
        return "inconclusive", f"A model did not learn the documents' habits. {said}"
    if adapts.high <= 0.0:
        return "fail", f"Adaptation does not help. {said}"
    enough = adapts.value >= math.log(ADAPTS) and searches.value >= math.log(SEARCHES)
    if enough and adapts.low > 0.0 and searches.low > 0.0:
        return "pass", f"Search and adaptation draft better. {said}"
    return "inconclusive", f"The seeds do not tell. {said}"


def _other(results: list[Result], arm: str, other: str) -> list[Result]:
    """The results with another arm's in the place of this one's, to be read alike."""
    return [{**result, arm: result[other]} for result in results]


def measures(results: list[Result]) -> list[Measure]:
    """The lines of the table."""
    found = [
        beside(
            "letters a pass (fixed tree; fixed chain)",
            "higher",
            (results, letters(ADAPTED)),
            (results, letters(CHAIN)),
            (results, letters(SEARCH)),
        )
    ]
    for arm in (ADAPTED_CHAIN, RELEASED, RENORMALISED, KEPT):
        found.append(measure((f"letters a pass, {arm}", "higher", letters(arm)), results))
    rows: tuple[tuple[str, Better, str], ...] = (
        ("documents as without drafts", "higher", "identical"),
        ("guesses a pass", "neither", "nodes"),
        ("share of guesses that were right", "neither", "accepted"),
        ("seconds for all documents", "lower", "seconds"),
    )
    for name, better, key in rows:
        columns = [(results, at(arm, key)) for arm in (ADAPTED, CHAIN, SEARCH)]
        found.append(beside(name, better, *columns))
    found.append(
        measure(("seconds for all documents, plain", "lower", at(PLAIN, "seconds")), results)
    )
    found.append(
        measure(("share of letters that the model foretells", "higher", FORETOLD), results)
    )
    if len(results) > 1:
        for one, other in ((ADAPTED, SEARCH), (SEARCH, CHAIN), (ADAPTED, ADAPTED_CHAIN)):
            gap = paired(letters(one), results, _other(results, one, other))
            found.append(
                Measure(f"paired difference, letters a pass, {one} - {other}", estimate(gap))
            )
    return found


def scale(recipe: Recipe, results: list[Result]) -> str:
    """How large the experiment was."""
    return (
        f"{recipe.completed} documents of {recipe.length} letters ({recipe.given} given) of "
        f"{recipe.codes}, {len(recipe.chances)} successors a pair, {recipe.size.depth} blocks of "
        f"width {recipe.size.width}, {results[0]['parameters'] / 1e6:.2f} M parameters, "
        f"{recipe.train.steps} steps of {recipe.batch.size} documents, tri-grams of "
        f"{recipe.documents} documents, at most {recipe.budget.nodes} guesses a pass, "
        f"{len(results)} paired seeds, greedy"
    )
