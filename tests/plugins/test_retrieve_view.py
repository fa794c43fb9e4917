"""What `finery show` prints of indexes and of embedding models."""

from pathlib import Path

from finery import Model
from finery.artifact.manifest import manifest
from finery.views import Output
from finery_retrieve.steps.view import EmbedderView, RetrievingView


def output(meta: dict[str, object], folder: Path) -> Output:
    return Output("step", Model(folder, meta=meta), manifest("Model", meta, {}))


def test_settings_without_a_value_are_left_out(tmp_path: Path) -> None:
    layout = {"pooling": "mean", "longest": 256, "lower": False, "document_prefix": ""}
    facts = EmbedderView().facts(output({"format": "embedder", "embedding": layout}, tmp_path))
    assert facts == {"format": "embedder", "pooling": "mean", "longest": 256}
    prompt = {"unknown": "No.", "limit": None}
    meta: dict[str, object] = {"format": "retrieving", "k": 4, "prompt": prompt}
    facts = RetrievingView().facts(output(meta, tmp_path))
    assert facts == {"format": "retrieving", "k": 4, "unknown": "No."}
