"""The committed pages are what the packs make."""

from __future__ import annotations

from pathlib import Path

from app.countries import Packs
from app.countries.pages import NOTICE, main, pages

PACKS = Packs.load()
FOLDER = Path(__file__).parents[2] / "docs" / "countries"


def test_the_committed_pages_are_the_packs() -> None:
    made = pages(PACKS)
    assert {path.name for path in FOLDER.iterdir()} == set(made), "run: python -m app.countries.pages"
    for name, content in made.items():
        assert (FOLDER / name).read_text("utf-8") == content, f"{name}: run python -m app.countries.pages"


def test_every_page_says_that_it_is_research_and_names_its_sources_or_that_there_are_none() -> None:
    for pack in PACKS.all():
        page = pages(PACKS)[f"{pack.id}.md"]
        assert NOTICE in page
        assert str(pack.data.reviewed) in page
        assert ("<http" in page) or ("no source link" in page)
    assert "no source link" in pages(PACKS)["PL.md"]


def test_pages_of_packs_that_are_no_more_go(tmp_path: Path) -> None:
    (tmp_path / "ZZ.md").write_text("old")
    main(tmp_path)
    assert not (tmp_path / "ZZ.md").exists()
    assert (tmp_path / "US.md").exists()
