"""How much the weights of two models differ."""

from pathlib import Path

import pytest

from finery_trl.view.model import weights_difference

torch = pytest.importorskip("torch", reason="needs the package torch")


def test_weights_are_compared_over_files_and_dtypes(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    old = {
        "a": torch.randn(4, 5), "b": torch.ones(3).bfloat16(), "c": torch.ones(2).half(),
        "count": torch.ones(2, dtype=torch.int64), "other": torch.ones(3),
    }  # fmt: skip
    new = {name: tensor.clone() for name, tensor in old.items()}
    new["b"][1] += 0.5
    new["c"][0] -= 0.25
    new["other"] = torch.ones(4)
    save_file(old, tmp_path / "old.safetensors")
    names = [["a", "b"], ["c", "count", "other"]]
    for number, some in enumerate(names):
        save_file({name: new[name] for name in some}, tmp_path / f"new-{number}.safetensors")
    after = [tmp_path / f"new-{number}.safetensors" for number in range(2)]
    found = weights_difference([tmp_path / "old.safetensors"], after)
    assert found == {"tensors": 3, "changed": 2, "most": 0.5}
    assert weights_difference(after, after)["changed"] == 0
    assert weights_difference([], after) == {}
