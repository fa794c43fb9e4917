"""The variants that came to the places of a round of `halve`."""

from collections.abc import Mapping
from typing import Any

from finery import Graph, Metrics, Provenance, Results, sources_of
from finery_eval.steps.select import Select


class VariantNames(Provenance[Select]):
    """Which variant each candidate is, where its name is that of a place."""

    def facts(self, name: str, graph: Graph, results: Results) -> Mapping[str, Any]:
        """`variants`: place → variant; nothing where all candidates have the names of variants."""
        places = [s.step.partition("@")[2] for s in sources_of(graph.nodes[name], Metrics)]
        variants = {place: graph.variant_named(place) for place in places}
        renamed = {place: variant for place, variant in variants.items() if variant != place}
        return {"variants": renamed} if renamed else {}
