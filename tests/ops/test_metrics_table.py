"""The table of metrics is the code's."""

from pathlib import Path

from ops.metrics_table import BEGIN, END, main, table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def test_the_page_names_every_metric_with_its_labels() -> None:
    """Whoever writes an alert looks up a name there, and must not find one that is gone."""
    assert main(["--check", str(PAGE)]) == 0


def test_a_stale_table_is_noticed_and_can_be_renewed(tmp_path: Path) -> None:
    """Documentation that can be wrong will be."""
    page = tmp_path / "metrics.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert main(["--check", str(page)]) == 1
    assert main(["--write", str(page)]) == 0
    assert page.read_text() == f"before\n{BEGIN}\n{table()}\n{END}\nafter\n"
    page.write_text("no markers")
    assert main(["--write", str(page)]) == 1
