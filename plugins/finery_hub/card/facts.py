"""The facts in a model card, as plain data: how models were made, judged and from which rows."""

from typing import Any

import msgspec

from finery.rows.report import Plot, Remark, ReportTable


class Rows(msgspec.Struct, frozen=True):
    """Rows that a step takes. digest: of their content, BLAKE3 in hex."""

    ref: str
    count: int
    digest: str


class Base(msgspec.Struct, frozen=True):
    """A model that others are made from and that the recipe takes from outside.

    step, use: the step that takes it in, and its type. repo, revision: on the hub. file: the only
    file, if it is one. Empty if unknown.
    """

    step: str
    use: str
    name: str = ""
    repo: str = ""
    revision: str = ""
    file: str = ""
    license: str = ""


class Training(msgspec.Struct, frozen=True):
    """A training. learns: as its step type declares it. meta: the facts about its model."""

    step: str
    use: str
    learns: str
    rows: list[Rows]
    validation: list[Rows]
    meta: dict[str, Any]


class Origin(msgspec.Struct, frozen=True):
    """Rows from outside the recipe. place: where they are read from, for people.

    repo, revision, config, split: of a data set on the hub. roles: their uses: `training`,
    `validation`, `evaluation`.
    """

    step: str
    use: str
    place: str
    rows: Rows
    roles: list[str]
    repo: str = ""
    revision: str = ""
    config: str = ""
    split: str = ""


class Generated(msgspec.Struct, frozen=True):
    """Rows that a model wrote. models: the names of those that were prompted."""

    step: str
    use: str
    models: list[str]
    rows: list[Rows]


class Dropped(msgspec.Struct, frozen=True):
    """Rows that a step left out. counts: by reason."""

    ref: str
    counts: dict[str, int]


class Score(msgspec.Struct, frozen=True):
    """A metric of a model, with its 95 % interval if there is one.

    is_share: whether it is a share, which people read as a percentage.
    """

    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    is_share: bool = True


class Judged(msgspec.Struct, frozen=True):
    """The scores of one model. digest: of the model."""

    ref: str
    digest: str
    scores: list[Score]


class Evaluation(msgspec.Struct, frozen=True):
    """Models judged on the same rows. origins: the steps that these rows come from.

    require: the conditions that a build must meet. whole: whether the rows are all rows of their
    origin, in the same order.
    """

    step: str
    use: str
    rows: Rows
    origins: list[str]
    judged: list[Judged]
    require: dict[str, str] = {}
    temperature: float | None = None
    whole: bool = False
    tables: list[ReportTable] = []
    plots: list[Plot] = []
    remarks: list[Remark] = []


class Apart(msgspec.Struct, frozen=True):
    """Whether training rows repeat those of an evaluation.

    by: the step that compared them and dropped copies and near copies. overlap: why they may
    overlap. Both are empty if they weren't compared.
    """

    training: str
    evaluation: str
    by: str = ""
    overlap: str = ""


class Recipe(msgspec.Struct, frozen=True):
    """The recipe. text: with what looks like a secret as `***`. overrides: its `--set`s."""

    name: str
    file: str
    text: str
    redacted: bool = False
    overrides: list[str] = []


class Lock(msgspec.Struct, frozen=True):
    """The lock file next to the recipe; empty if there is none."""

    file: str
    text: str = ""


class Facts(msgspec.Struct, frozen=True):
    """All facts in a card, except the models and bundles themselves.

    step: the step that the card is for. bases: by the name of each model. licenses: step with rows
    from outside → the licence stated in the recipe.
    """

    step: str
    recipe: Recipe
    lock: Lock
    bases: dict[str, list[Base]]
    trainings: list[Training]
    origins: list[Origin]
    generated: list[Generated]
    dropped: list[Dropped]
    evaluations: list[Evaluation]
    apart: list[Apart]
    licenses: dict[str, str] = {}
