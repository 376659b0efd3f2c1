"""A run gathered condition by condition, and written: its manifest, its rows, its vectors.

In: verbalizers, backgrounds, directions by condition. Out: a run folder. Refuses what ``plan`` and run folders refuse,
and, when all is written, rows that ended every worker. Resumes: what was said stays said.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

from dragoman.core import Background, Directions, Floats, Refusal, Site, Talk
from dragoman.records import ENDED, SOURCE_ROWS, Card, NullName, PromptToken, Reading
from dragoman.runs.grow import begun, with_vectors_before
from dragoman.runs.options import Options
from dragoman.runs.plan import Condition, Plan, execute
from dragoman.store import RunFolder
from dragoman.store.libraries import version_of
from dragoman.store.runs import LOG
from dragoman.store.spans import shown
from dragoman.verbalizers.protocol import AnyVerbalizer
from dragoman.washout import wash

TOGETHER = 64  # vectors for a verbalizer that does not say how many suit it
_PACKAGES = ("dragoman", "dragoman-tiny", "numpy", "torch", "transformers", "tokenizers", "peft")


@dataclass(kw_only=True)
class RunBuilder:
    """Gathers the conditions of one run.

    ``directions``: what is explained, at the source. ``backgrounds``: by key of a verbalizer ("by" is that of the
    target, "native" that of the source), what its stream has in common. ``tokens``: of activations, one each.
    ``target``: where no background was read.
    """

    directions: Directions
    backgrounds: Mapping[str, Background]
    conditions: list[Condition] = field(default_factory=list)
    entries: list[dict[str, object]] = field(default_factory=list)
    bare: dict[str, Directions] = field(default_factory=dict)
    lengths: dict[str, Floats] = field(default_factory=dict)
    tokens: Sequence[PromptToken] = ()
    target: Site | None = None

    def add(
        self,
        name: str,
        directions: Directions,
        *,
        route: str,
        washout: str,
        by: str = "by",
        vectors: Floats | None = None,
        cards: Sequence[Card] = (),
        null: NullName | None = None,
        reading: Reading | None = None,
        keep_bare: bool = False,
        flags: Sequence[str] = (),
        **about: Any,
    ) -> None:
        """One condition.

        Args:
            name: its own.
            directions: at the verbalizer's site.
            route: how they came there.
            washout: how they are washed, see ``dragoman.washout.wash``.
            by: key of the verbalizer.
            vectors: (n, d) injected as they are, in place of washed ones.
            cards: one a direction, or none.
            null: which null this is, if it is one.
            reading: which of a feature's two readings this is, if it is one.
            keep_bare: whether a reconstructor of the target is asked for these directions.
            flags: on every text of it.
            about: what else the manifest tells of it.
        """
        injected = wash(directions, self.backgrounds.get(by), washout) if vectors is None else vectors
        how = {"cards": cards, "flags": flags, "tokens": self.tokens}
        self.conditions.append(Condition.of(name, directions, by, vectors=injected, **how))
        self.lengths[name] = directions.norms
        entry = {"name": name, "route": route, "washout": washout, "verbalizer": by}
        told = {key: one for key, one in (("null", null), ("reading", reading)) if one is not None}
        self.entries.append({**entry, **told, **about})
        if keep_bare:
            self.bare[name] = directions

    def write(
        self,
        out: Path,
        verbalizers: Mapping[str, AnyVerbalizer],
        options: Options,
        talk: Talk,
        more: Mapping[str, Any],
        *,
        grows: bool = False,
    ) -> RunFolder:
        """Write the manifest, have everything said that is not yet, keep the vectors with the rows.

        ``verbalizers``: by key. ``more``: what the manifest tells besides. ``grows``: whether a run that is there may
        get these features besides its own.
        """
        plan = Plan(
            conditions=tuple(self._as_read(one, verbalizers[one.verbalizer]) for one in self.conditions),
            batch_size=together(options, verbalizers),
            samples=options.samples,
            seed=options.seed,
            temperature=options.drawn_at,
            max_new_tokens=options.max_new_tokens,
        )
        around = self.backgrounds.get("by")
        manifest = {
            "dragoman": version_of("dragoman"),
            "source": str(self.directions.site),
            "target": str(around.site if around is not None else self.target),
            "conditions": [
                entry | {"verbalizer": verbalizers[one.verbalizer].name}
                for entry, one in zip(self.entries, self.conditions, strict=True)
            ],
            "features": list(self.directions.ids),
            "rows": options.samples * sum(len(c.ids) for c in self.conditions),
            **({"background": background_report(around)} if around is not None else {}),
            "verbalizers": {key: one.identity for key, one in verbalizers.items()},
            "versions": versions(),
            "seeds": {"seed": options.seed},
            "plan_digest": plan.digest(verbalizers),
            **more,
        }
        self._tell_washed(verbalizers, talk)
        run, after = begun(out, manifest, grows=grows)
        talk.kept(run.path)
        done = execute(plan, run, verbalizers, talk.bar, after=after)
        if done.reused:
            talk.say(f"kept {done.reused} rows that were there, made {done.made}")
        vectors = {c.name: c.vectors for c in plan.conditions} | {f"bare/{n}": d.unit for n, d in self.bare.items()}
        vectors = with_vectors_before(run, vectors | {SOURCE_ROWS: self.directions.unit})
        if vectors is not None:
            run.write_vectors(vectors)
        return run

    def _tell_washed(self, verbalizers: Mapping[str, AnyVerbalizer], talk: Talk) -> None:
        """Say where vectors are washed for a verbalizer that was trained on bare rows."""
        both = zip(self.conditions, self.entries, strict=True)
        washed = {one.verbalizer for one, entry in both if entry["washout"] != "none"}
        for key in sorted(washed):
            if getattr(verbalizers[key], "trained_on_rows", False):
                talk.say(f"{verbalizers[key].name} was trained on bare rows, and these are washed: pass --washout none")

    def _as_read(self, condition: Condition, verbalizer: AnyVerbalizer) -> Condition:
        """With vectors at the lengths their rows have, where the verbalizer reads lengths: washing turns rows alone."""
        if not getattr(verbalizer, "reads_length", False):
            return condition
        return replace(condition, vectors=condition.vectors * self.lengths[condition.name][:, None])


def refuse_ended(run: RunFolder) -> RunFolder:
    """The run; refuse one with rows that ended every worker, once all else that is of it has been written."""
    ended = list(dict.fromkeys(row["feature"] for row in run.each_row() if ENDED in (row.get("problems") or ())))
    if not ended:
        return run
    named = ", ".join(map(shown, ended[:10])) + (f" and {len(ended) - 10} more" if len(ended) > 10 else "")
    raise Refusal(
        f"feature{'s' * (len(ended) > 1)} {named}",
        "every worker that was to say them ended; their rows have no text, and all others are kept",
        f"look into {run.path / LOG} for how they ended, and run the same command again to have these tried again",
    )


def together(options: Options, verbalizers: Mapping[str, AnyVerbalizer]) -> int:
    """Vectors handed over together: as said, or as the verbalizer's engine likes it that likes the fewest."""
    return options.batch_size or min(getattr(one, "together", TOGETHER) for one in verbalizers.values())


def background_report(background: Background) -> dict[str, object]:
    """Spread, constant predictor and on-shell angle of a background."""
    degrees = math.degrees(math.asin(math.sqrt(max(background.spread, 0.0))))
    return {
        "spread": background.spread,
        "constant_cosine": background.constant_cosine,
        "on_shell_degrees": degrees,
        "n": background.n,
        "texts": background.texts,
    }


def versions() -> dict[str, str]:
    """What the rows depend on besides the plan."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version_of(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found
