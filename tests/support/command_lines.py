"""Commands that documents show: found in their code blocks, and parsed as the command line parses them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from markdown_it import MarkdownIt
from markdown_it.token import Token
from typer import Exit
from typer.core import TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

from audit.errors import AuditError
from ops.cli import app
from ops.command_reference import PROGRAM

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("benchmarks", "demo", "deploy", "docs", "examples", "ops", "tests")
SEPARATORS = {"|", "||", "&&", ";", "&"}
SHELL = {"", "sh", "bash", "shell", "console"}
REDIRECTIONS = {">", ">>", "<", ">|"}


def documents() -> list[Path]:
    """Every Markdown file of the repository."""
    below = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md")]
    return sorted([*ROOT.glob("*.md"), *below])


def tokens(document: Path) -> Iterator[Token]:
    """The document's tokens, those inside of paragraphs and cells included."""
    for token in MarkdownIt("gfm-like", {"linkify": False}).parse(document.read_text(encoding="utf-8")):
        yield token
        yield from token.children or []


def code_lines(document: Path) -> Iterator[str]:
    """Lines of its shell blocks, in which a line that ends with a backslash goes on."""
    for token in tokens(document):
        if token.type in ("fence", "code_block") and token.info in SHELL:
            yield from token.content.replace("\\\n", " ").splitlines()


def invocations(line: str) -> list[list[str]]:
    """The arguments of each `caption-audit ...` of a shell line; a remark in parentheses at its end is none."""
    if f"{PROGRAM} " not in f"{line} ":
        return []
    lexer = shlex.shlex(re.sub(r"\s{2,}\(.*", "", line), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:
        return []  # an apostrophe: prose, or what a program printed
    found: list[list[str]] = []
    simple: list[str] = []
    for word in [*words, ";"]:
        if word in SEPARATORS:
            found += [arguments] if (arguments := _arguments(simple)) is not None else []
            simple = []
        else:
            simple.append(word)
    return found


def refusal(arguments: list[str]) -> str | None:
    """What the command line says against these arguments before it runs anything; None when it takes them."""
    root = get_command(app)
    rest = [argument for argument in arguments if argument != "--debug"]
    try:
        context = root.make_context(PROGRAM, rest)
        while isinstance(context.command, TyperGroup):
            words = [*getattr(context, "_protected_args", []), *context.args]
            if not words:  # the program or a group alone: it shows its help
                return None
            name, command, rest = context.command.resolve_command(context, words)
            assert command is not None
            context = command.make_context(str(name), rest, parent=context)
    except Exit:  # --help has printed
        return None
    except (TyperException, AuditError) as error:
        return f"{PROGRAM} {shlex.join(arguments)}: {error}"
    return None


def _arguments(words: list[str]) -> list[str] | None:
    """Without assignments before it and redirections after it; None when another program is called."""
    while words and "=" in words[0] and words[0].split("=")[0].isidentifier():
        words = words[1:]
    if not words or PurePosixPath(words[0]).name != PROGRAM:
        return None
    kept, skip = [], False
    for word in words[1:]:
        if skip or word in REDIRECTIONS:
            skip = not skip
            continue
        kept.append(word)
    return kept
