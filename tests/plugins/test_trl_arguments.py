"""`args` of trainings: what TRL's configuration has, and what finery leaves to it."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.kto_config import KTOConfig
from trl.trainer.sft_config import SFTConfig

from finery import Model, UsageError
from finery_trl.checks import DECIDED, annotations_of
from finery_trl.on_policy import Distill, Grpo
from finery_trl.steps import Dpo, Kto, Sft


@pytest.mark.parametrize(("step", "config"), [(Sft, SFTConfig), (Dpo, DPOConfig), (Kto, KTOConfig)])
def test_the_source_has_the_arguments_of_the_class(step: Any, config: Any) -> None:
    fields = {f.name for f in dataclasses.fields(config) if f.init}
    assert set(annotations_of(step.config)) == fields


def check(**args: Any) -> None:
    Sft(model=Model(Path()), rows=[], args=args).check()


def test_arguments_of_trl_are_accepted() -> None:
    check(weight_decay=0.1, adam_beta2=0.95, max_grad_norm=1, tf32=None)
    check(optim_target_modules=["q_proj"], lr_scheduler_kwargs={"num_cycles": 2})


@pytest.mark.parametrize(
    ("args", "what", "fix"),
    [
        ({"wieght_decay": 0.1}, "no argument 'wieght_decay'", "did you mean 'weight_decay'?"),
        ({"weight_decay": "much"}, "expects float, but is 'much'", "correct it"),
        ({"learning_rate": 1e-3}, "'learning_rate' is a setting of the step", "next to `args`"),
        ({"max_steps": 10}, "can't be set: `epochs`", "remove it"),
        ({"loss_type": "dft"}, "can't be set: finery computes the loss", "remove it"),
    ],
)
def test_others_are_refused(args: dict[str, Any], what: str, fix: str) -> None:
    with pytest.raises(UsageError) as caught:
        check(**args)
    assert what in caught.value.what
    assert fix in str(caught.value.fix)
    assert caught.value.where == f"args.{next(iter(args))}"


def test_a_loss_that_a_setting_adds_has_the_weights_of_that_setting() -> None:
    step = Dpo(model=Model(Path()), rows=[], sft_weight=0.5, args={"loss_weights": [1.0, 2.0]})
    with pytest.raises(UsageError, match="'loss_weights' can't be set"):
        step.check()


def test_every_pattern_of_what_finery_decides_matches_an_argument() -> None:
    from fnmatch import filter as matching

    names = {n for step in (Sft, Dpo, Kto, Grpo, Distill) for n in annotations_of(step.config)}
    patterns = [p for several in DECIDED.values() for p in several.split()]
    assert [p for p in patterns if not matching(names, p)] == []
