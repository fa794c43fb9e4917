"""The view of GGUF files, with the speed that their export measured."""

from collections.abc import Mapping
from typing import Any

from finery.views import Output
from finery_trl.view.model import CurveView


class GgufView(CurveView):
    """Shows GGUF files."""

    def facts(self, output: Output) -> Mapping[str, Any]:
        """`meta`, and how fast the file answered when it was exported."""
        facts = dict(super().facts(output))
        speed = output.manifest.runtime.get("tokens_per_second")
        return (
            {**facts, "speed": f"{speed:,.0f} tokens/s where it was exported"} if speed else facts
        )
