"""What a reader of many sites is made of: the model that reads, the dictionaries and their sites, the arms.

In: ``settings.py`` (the embedded pair, a dictionary trained at each of its sites), or ``--base``, ``--sae`` and the
like, by which dictionaries that exist are used instead. Out: ``Setup``, the same in every stage: it is kept in the work
folder. Refuses a folder that was begun with others.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import settings as s
from dragoman.dictionaries import open_dictionary
from sites import Place

FILE = "setup.json"


@dataclass(frozen=True, slots=True)
class Listed:
    """A dictionary: its name in files, its place, ``ref`` where it exists ("": one is trained here).

    ``tested``: its latents are judged, and never trained on.
    """

    name: str
    place: Place
    ref: str = ""
    tested: bool = False


@dataclass(frozen=True, slots=True)
class Setup:
    """The model that reads, and what it reads.

    ``home``: where latents are drawn to be judged, where vectors get their norm and maps lead to. ``unseen``: places
    that one arm does without. ``topped_up``: where as many latents are judged as at home.
    """

    base: str
    home: Place
    dictionaries: tuple[Listed, ...]
    unseen: tuple[Place, ...] = ()
    topped_up: tuple[Place, ...] = ()

    @classmethod
    def of_the_pair(cls) -> Setup:
        """As ``settings.py`` says."""
        places = [Place(m, b) for m, blocks in s.MANY_BLOCKS.items() for b in blocks]
        home = Place(*s.MANY_SECOND)
        listed = [Listed(p.key, p) for p in places] + [Listed(f"{home.key}-second", home, tested=True)]
        unseen, topped_up = (tuple(Place(*p) for p in some) for some in (s.MANY_UNSEEN, s.MANY_OTHERWISE))
        return cls("tiny-smollm2", home, tuple(listed), unseen, tuple(p for p in topped_up if p in places))

    @classmethod
    def of_dictionaries(
        cls, base: str, own: list[str], other: list[str], tested: list[str], unseen: list[int]
    ) -> Setup:
        """Of dictionaries that exist: of the model that reads and of others; home is the first one's place."""
        listed = list[Listed]()
        for refs, is_tested in ((own, False), (other, False), (tested, True)):
            for ref in refs:
                site = open_dictionary(ref).site
                place = Place(site.model if refs is other else base or site.model, site.block)
                base = base or site.model
                listed.append(Listed(place.key + "-tested" * is_tested, place, ref, is_tested))
        names = [one.name for one in listed]
        if len(set(names)) < len(names):
            raise SystemExit(f"two dictionaries are of one place ({', '.join(sorted(names))}): name one a place")
        home = listed[0].place
        places = {one.place for one in listed if not one.tested}
        if any(one.place not in places for one in listed if one.tested):
            raise SystemExit("--test-sae: it is of a place that no --sae is of: name one there too")
        without = tuple(Place(base, b) for b in unseen)
        if any(p not in places or p == home for p in without):
            raise SystemExit("--unseen: name blocks of other --sae than the first")
        return cls(base, home, tuple(listed), without, without)

    @property
    def places(self) -> tuple[Place, ...]:
        """All sites that are read."""
        return tuple(one.place for one in self.dictionaries if not one.tested)

    @property
    def own(self) -> tuple[Place, ...]:
        """Those of the model that reads."""
        return tuple(p for p in self.places if p.model == self.base)

    @property
    def others(self) -> tuple[Place, ...]:
        """Those of other models, which maps lead to ``home``."""
        return tuple(p for p in self.places if p.model != self.base)

    @property
    def models(self) -> tuple[str, ...]:
        """Each once."""
        return tuple(dict.fromkeys(p.model for p in self.places))

    @property
    def declared(self) -> frozenset[str]:
        """Names of dictionaries about which something is declared."""
        return frozenset(p.key for p in (self.home, *self.topped_up))

    def blocks(self, model: str) -> tuple[int, ...]:
        """Those of a model that are read."""
        return tuple(p.block for p in self.places if p.model == model)

    def number(self, name: str) -> int:
        """Which of the dictionaries has a name."""
        return next(k for k, one in enumerate(self.dictionaries) if one.name == name)

    def arms(self) -> dict[str, tuple[tuple[Place, ...], tuple[str, ...]]]:
        """Of each arm the places and the kinds of vectors it learns from."""
        kinds = tuple(k for k in s.MANY_MIX if k != "mapped" or self.others)
        out: dict[str, tuple[tuple[Place, ...], tuple[str, ...]]] = {
            **{f"activations-{p.block}": ((p,), ("activation",)) for p in self.own},
            **{f"rows-{p.block}": ((p,), ("row",)) for p in self.own},
            "affine": (self.own, ("row",)),
            "many-activations": (self.own, ("activation",)),
            "many-everything": (self.own, kinds),
            "many-everything-again": (self.own, kinds),  # goes on from many-everything with as many vectors more
            "many-everything-near": (self.own, kinds),  # told the words of the nearest means beside each vector
            "as-packaged": ((), ()),  # not trained: the verbalizer that the others start from
        }
        if self.unseen:
            out["without-blocks"] = (tuple(p for p in self.own if p not in self.unseen), kinds)
        if self.others:
            out["without-model"] = (self.own, tuple(k for k in kinds if k != "mapped"))
        return out

    def is_told_near(self, arm: str) -> bool:
        """Whether an arm's reader is given the words whose mean activations lie nearest to its vector, and how near."""
        return arm.endswith("-near")

    @classmethod
    def of(cls, args: argparse.Namespace) -> Setup:
        """As the command says; kept in its work folder, and the one kept there where the command says nothing."""
        file: Path = args.work / FILE
        kept = cls.read(file) if file.exists() else None
        asked = None
        if args.sae:
            asked = cls.of_dictionaries(args.base or "", args.sae, args.other_sae, args.test_sae, args.unseen)
        elif args.base or args.other_sae or args.test_sae or args.unseen:
            raise SystemExit("--base, --other-sae, --test-sae and --unseen go with --sae: name the dictionaries")
        if kept and asked and kept != asked:
            raise SystemExit(f"{args.work} was begun with other dictionaries; name another --work")
        found = kept or asked or cls.of_the_pair()
        if not kept:
            args.work.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(asdict(found), indent=1) + "\n")
        return found

    @classmethod
    def read(cls, file: Path) -> Setup:
        """What was kept."""
        told = json.loads(file.read_text())
        place = lambda one: Place(**one)  # noqa: E731
        return cls(
            told["base"],
            place(told["home"]),
            tuple(Listed(**(one | {"place": place(one["place"])})) for one in told["dictionaries"]),
            tuple(map(place, told["unseen"])),
            tuple(map(place, told["topped_up"])),
        )
