"""All that the store's database lists: results, pins, answers; and how to remove them."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

import msgspec

from finery.artifact.manifest import Manifest
from finery.errors import UsageError
from finery.store.connection import Database
from finery.store.database import KEY_DIGITS, READS_PREFIX, VERSIONS_PREFIX, Store

LONG_TO_SHRINK = 256 << 20
"""Bytes of a database that take seconds to copy."""

_DIGESTS = f"""
SELECT made.value
FROM (SELECT CAST(outputs AS TEXT) AS text FROM results) AS result,
  json_tree(iif(json_valid(result.text), result.text, '{{}}')) AS made
WHERE made.type = 'text' AND length(made.value) = {KEY_DIGITS}"""
"""The digests in all results."""


class Catalogue:
    """What a store's database lists. undecodable: keys whose record is damaged."""

    def __init__(self, store: Store) -> None:
        self._db = Database(store.database)
        self.undecodable: list[str] = []

    def damage(self) -> str:
        """What SQLite finds wrong in the database, which is then replaced; empty if nothing."""
        lines = [str(line) for (line,) in self._db.rows("PRAGMA quick_check(3)")]
        if lines == ["ok"]:
            return ""
        self._db.damaged("; ".join(lines))
        return "; ".join(lines)

    def everything(self) -> Iterator[tuple[str, dict[str, Manifest]]]:
        """(key, outputs) of all results. Sets `undecodable`."""
        self.undecodable.clear()
        for key, encoded in self._db.rows("SELECT key, outputs FROM results"):
            try:
                outputs = msgspec.json.decode(encoded, type=dict[str, Manifest])
            except (msgspec.DecodeError, UnicodeError, TypeError, RecursionError):
                self.undecodable.append(key)
                continue
            yield key, outputs

    def forget(self, keys: Iterable[str], recipes: Iterable[str] = ()) -> None:
        """Remove the results of keys, and what was remembered of recipes.

        The parts of the last but one key of a step stay, to say what changed.
        """
        self._db.write(
            ("DELETE FROM results WHERE key = ?", [[key] for key in keys]),
            ("DELETE FROM latest WHERE recipe = ?", [[recipe] for recipe in recipes]),
            (
                "DELETE FROM parts WHERE key NOT IN (SELECT key FROM results) AND key NOT IN "
                "(SELECT previous FROM latest WHERE previous IS NOT NULL)",
                [[]],
            ),
            (
                "DELETE FROM facts WHERE name BETWEEN ? AND ? AND substr(name, -64) NOT IN "
                "(SELECT key FROM results)",
                [[prefix, f"{prefix[:-1]}!"] for prefix in (READS_PREFIX, VERSIONS_PREFIX)],
            ),
            patient=True,
        )

    def forget_blobs(self, digests: Iterable[str]) -> None:
        """Forget when blobs were verified, which are removed now."""
        rows = [[digest] for digest in digests]
        self._db.write(("DELETE FROM blobs WHERE digest = ?", rows), patient=True)

    def forget_remote(self) -> None:
        """Forget that blobs are in a shared store which no result has.

        In one statement, since builds that run may be adding results with such blobs.
        """
        self._db.write((f"DELETE FROM remote WHERE digest NOT IN ({_DIGESTS})", [[]]), patient=True)

    def answers(self) -> tuple[int, int]:
        """(number, bytes) of the stored answers of models."""
        count, total = self._db.rows("SELECT count(*), sum(length(value)) FROM records")[0]
        return count, total or 0

    def forget_answers(self) -> None:
        """Remove all stored answers of models. To ask for them again may cost money."""
        self._db.write(("DELETE FROM records", [[]]), patient=True)

    def shrink(self) -> None:
        """Give the free space in the database back, unless that takes long."""
        pages, free, page = (
            self._db.rows(f"PRAGMA {name}")[0][0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        if 4 * free > pages and (pages - free) * page < LONG_TO_SHRINK:
            with suppress(UsageError):  # another command uses the database: the next time, then
                self._db.rows("VACUUM")
                self._db.rows("PRAGMA wal_checkpoint(TRUNCATE)")

    # -- pins ------------------------------------------------------------------------------------

    def pins(self) -> dict[str, str]:
        """Key → step and recipe, of the results that the user wants to keep."""
        rows = self._db.rows("SELECT name, content FROM facts WHERE name LIKE 'pin of %'")
        return {name.removeprefix("pin of "): bytes(text).decode() for name, text in rows}

    def pin(self, keys: Mapping[str, str]) -> None:
        """Keep results from being collected. keys: key → step and recipe."""
        rows = [(f"pin of {key}", text.encode()) for key, text in keys.items()]
        self._db.write(("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows))

    def unpin(self, keys: Iterable[str]) -> None:
        """Undo `pin`."""
        self._db.write(("DELETE FROM facts WHERE name = ?", [[f"pin of {key}"] for key in keys]))
