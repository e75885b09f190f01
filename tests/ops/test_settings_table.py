"""The README's table of settings is the code's."""

from pathlib import Path

from audit.settings import Settings
from ops.settings_table import BEGIN, END, main, table


def test_every_setting_is_in_the_table_with_its_meaning() -> None:
    """A setting that nobody can find is not there."""
    lines = table().splitlines()[2:]
    assert len(lines) == len(Settings.model_fields)
    assert all(line.rsplit(" | ", 1)[1] != "|" for line in lines)
    assert "| `AUDIT_CACHE` | `true` | Reuse a judgement of the same picture, caption and model. |" in lines


def test_a_stale_table_is_noticed_and_can_be_renewed(tmp_path: Path) -> None:
    """Documentation that can be wrong will be."""
    file = tmp_path / "README.md"
    file.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert main(["--check", str(file)]) == 1
    assert main(["--write", str(file)]) == 0
    assert main(["--check", str(file)]) == 0
    assert file.read_text() == f"before\n{BEGIN}\n{table()}\n{END}\nafter\n"
    other = tmp_path / "README.zh.md"
    other.write_text("no markers")
    assert main(["--check", str(file), str(other)]) == 1
